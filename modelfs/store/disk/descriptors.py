"""Open files of the store, kept open for reuse and closed when nobody holds them."""

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

# Far below the usual limit of 1,024 open files, which staging, LMDB and FUSE share.
OPEN_MAX = 256
IOV_MAX: Final = 1024


class Descriptor:
    """A file descriptor that is closed when the last holder lets go of it.

    A read that was planned keeps its descriptor, so the file may meanwhile be deleted or fall
    out of the cache: the bytes stay readable until the read is done. Keep the object for as long as
    its number is used, and not the number alone, which may soon be another file's.
    """

    __slots__ = ("__weakref__", "fd", "path")

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        self.fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        weakref.finalize(self, os.close, self.fd)

    def fileno(self) -> int:
        return self.fd


def read_at(file: Descriptor, offset: int, size: int) -> bytes:
    """Return bytes of a file, fewer only where it ends. A short read is continued: pread(2)."""
    try:
        data = os.pread(file.fd, size, offset)
        while len(data) < size and (
            more := os.pread(file.fd, size - len(data), offset + len(data))
        ):
            data += more
    except OSError as exc:
        exc.filename = str(file.path)
        raise
    return data


def read_into(file: Descriptor, offset: int, into: memoryview) -> int:
    """Fill `into` from a file and return how many bytes there were, fewer only where it ends."""
    try:
        done = os.preadv(file.fd, [into], offset)
        while done < len(into) and (more := os.preadv(file.fd, [into[done:]], offset + done)):
            done += more
    except OSError as exc:
        exc.filename = str(file.path)
        raise
    return done


def write_at(file: Descriptor, offset: int, buffers: Sequence[bytes | memoryview]) -> None:
    """Write buffers one after the other. What the kernel leaves over is written too.

    Raises:
        OSError: part of them may be written.
    """
    # It takes less than it was given on a full disk, or past 2 GiB.
    pending = [memoryview(buffer) for buffer in buffers]
    try:
        while pending:
            written = os.pwritev(file.fd, pending[:IOV_MAX], offset)
            offset += written
            while pending and written >= len(pending[0]):
                written -= len(pending.pop(0))
            if written:
                pending[0] = pending[0][written:]
    except OSError as exc:
        exc.filename = str(file.path)
        raise


def sync(file: Descriptor) -> None:
    """Make a file's bytes durable."""
    try:
        os.fdatasync(file.fd)
    except OSError as exc:
        exc.filename = str(file.path)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Descriptors:
    """The most recently used files under one folder. Any thread may ask."""

    def __init__(self, folder: Path, flags: int, capacity: int = OPEN_MAX) -> None:
        self._folder = folder
        self._flags = flags
        self._capacity = capacity
        self._open: OrderedDict[str, Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str, flags: int = 0) -> Descriptor:
        """Return the open file `name`.

        Raises:
            OSError: it cannot be opened.
        """
        with self._lock:
            if (found := self._open.get(name)) is not None:
                self._open.move_to_end(name)
                return found
        opened = Descriptor(self._folder / name, self._flags | flags)
        with self._lock:
            kept = self._open.setdefault(name, opened)
            while len(self._open) > self._capacity:
                self._open.popitem(last=False)
        return kept

    def forget(self, name: str) -> None:
        """Drop `name` from the cache, because its file is deleted or replaced."""
        with self._lock:
            self._open.pop(name, None)

    def clear(self) -> None:
        with self._lock:
            self._open.clear()
