"""Open files of the store: a cache of descriptors, and reads and writes that are never short.

A short read or write of the kernel is continued until the request is complete or the file ends.
Every `OSError` carries the path of its file.

A daemon raises its limit of open files as far as it may, and the caches take fixed shares of the
limit. Example. With a limit of 1,024 files, packs and staging files may have 128 open each, and
256 more staging files keep a descriptor; with a limit of 64 these are 8, 8 and 16.
"""

import errno
import os
import resource
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from modelfs.fork_lock import fork_lock
from modelfs.store.disk.closer import closer
from modelfs.store.disk.directory import Directory

# The most open files of a cache, and of a process.
OPEN_MAX: Final = 256
LIMIT_MAX: Final = 1 << 16
IOV_MAX: Final = 1024


class Descriptor:
    """A file descriptor that is closed when the last reference to this object is dropped.

    A planned read keeps the object, so its bytes stay readable although the file is deleted or
    leaves the cache meanwhile. Keep the object, not its number: the kernel gives the number of a
    closed file to the next one.
    """

    __slots__ = ("__weakref__", "fd", "path")

    def __init__(self, folder: Directory, name: str, flags: int) -> None:
        """Open a file of a directory. Raises what `Directory.open` does."""
        self.path = folder.path / name
        opened: list[int] = []
        weakref.finalize(self, closer(opened))
        folder.open_into(opened, name, flags)
        self.fd = opened[0]

    def fileno(self) -> int:
        return self.fd


def read_at(file: Descriptor, offset: int, size: int) -> bytes:
    """Return `size` bytes of a file from `offset` on, fewer only at the end of the file."""
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
    """Fill `into` from `offset` on.

    Returns:
        The number of bytes read; fewer than `len(into)` only at the end of the file.
    """
    try:
        done = os.preadv(file.fd, [into], offset)
        while done < len(into) and (more := os.preadv(file.fd, [into[done:]], offset + done)):
            done += more
    except OSError as exc:
        exc.filename = str(file.path)
        raise
    return done


def write_at(file: Descriptor, offset: int, buffers: Sequence[bytes | memoryview]) -> None:
    """Write buffers one after the other, from `offset` on.

    Raises:
        OSError: the disk is full or failed; part of the bytes may be written.
    """
    # pwritev(2) writes fewer bytes than it was given on a full disk, or past 2 GiB.
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


def raise_limit() -> None:
    """Raise this process's limit of open files as far as it may, up to `LIMIT_MAX`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = LIMIT_MAX if hard == resource.RLIM_INFINITY else min(hard, LIMIT_MAX)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def share_of_limit(parts: int) -> int:
    """Return one of so many equal parts of this process's limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (LIMIT_MAX if soft == resource.RLIM_INFINITY else min(soft, LIMIT_MAX)) // parts


class Descriptors:
    """The open files of one folder; the least recently used are closed first. Any thread."""

    def __init__(self, folder: Directory, flags: int, capacity: int | None = None) -> None:
        """Create a cache; `capacity` is its most open files, by default a share of the limit."""
        if capacity is None:
            capacity = min(OPEN_MAX, share_of_limit(8))
        self._folder = folder
        self._flags = flags
        self._capacity = capacity
        self._open: OrderedDict[str, Descriptor] = OrderedDict()
        # Of every file of the folder that is open, in the cache or only with a reader.
        self._references: set[weakref.ref[Descriptor]] = set()
        self._lock = fork_lock()

    def get(self, name: str, flags: int = 0) -> Descriptor:
        """Return the open file `name`, opening it with extra `flags` if it is not in the cache.

        Raises:
            OSError: the file cannot be opened.
        """
        with self._lock:
            if (file := self._open.pop(name, None)) is not None:
                self._open[name] = file
                return file
        # Outside the lock, so that no other thread waits for the disk. Two threads may open the
        # same file; both then use the first one's descriptor.
        opened = self._open_file(name, flags)
        with self._lock:
            file = self._open.setdefault(name, opened)
            while len(self._open) > self._capacity:
                self._open.popitem(last=False)
        return file

    def open(self, name: str) -> Descriptor:
        """Return a descriptor of its own of the file `name`, which does not enter the cache.

        Raises:
            OSError: the file cannot be opened.
        """
        return self._open_file(name)

    def _open_file(self, name: str, flags: int = 0) -> Descriptor:
        try:
            file = Descriptor(self._folder, name, self._flags | flags)
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self.clear()
            file = Descriptor(self._folder, name, self._flags | flags)
        self._references.add(weakref.ref(file, self._references.discard))
        return file

    def forget(self, name: str) -> None:
        """Remove `name` from the cache, because its file is deleted, replaced or cut."""
        with self._lock:
            self._open.pop(name, None)

    def kept(self, name: str) -> list[weakref.ref[Descriptor]]:
        """Return references to all descriptors of the file `name` that are open now."""
        references = list(self._references)  # one call: no other thread comes in between
        return [
            reference
            for reference in references
            if (file := reference()) is not None and file.path.name == name
        ]

    def clear(self) -> None:
        with self._lock:
            self._open.clear()
