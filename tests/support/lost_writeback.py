"""A kernel that fails to write pages back, between two calls of the store.

As Linux does since 4.13 (errseq_t, see fsync(2)): the bytes that were written since the last fsync
are dropped, so that a read finds the older ones. fsync, fdatasync and `take_error` report that once
for each descriptor that was open, and for one that is opened later if no other had a report.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from unittest.mock import patch

from modelfs.store.files import window_file

CALLS: Final = ("open", "pwritev", "pread", "preadv", "fsync", "fdatasync", "ftruncate", "unlink")
SYNCS: Final = ("fsync", "fdatasync")


@dataclass
class _Mapping:
    """The pages of one file, by the number of its inode."""

    unsynced: list[tuple[int, bytes]] = field(default_factory=list)  # offsets, and older bytes
    failures: int = 0
    seen: bool = True  # by some descriptor


@dataclass
class LostWriteBack:
    """A write-back that fails before the `number`-th call, for the files below `folder`."""

    number: int
    folder: str = ""  # a part of their paths
    error: int = errno.EIO
    call: str = "write-back"
    count: int = 0
    struck: bool = False  # whether bytes were lost
    _mappings: dict[int, _Mapping] = field(default_factory=dict)
    _told: dict[int, int] = field(default_factory=dict)  # failures, by descriptor

    @contextlib.contextmanager
    def below(self) -> Iterator[None]:
        """Make the kernel fail inside the block."""
        with contextlib.ExitStack() as stack:
            for name in CALLS:
                stack.enter_context(patch.object(os, name, self._wrapped(name, getattr(os, name))))
            stack.enter_context(patch.object(window_file, "take_error", self._take_error))
            yield

    def lose(self, folder: str = "") -> None:
        """Lose the unsynced bytes of the files whose paths contain `folder`."""
        for fd in list(self._told):
            try:
                path, mapping = os.readlink(f"/proc/self/fd/{fd}"), self._mapping(fd)
            except OSError:
                del self._told[fd]
                continue
            if folder in path and mapping.unsynced:
                for offset, older in reversed(mapping.unsynced):
                    _overwrite(fd, offset, older)
                mapping.unsynced.clear()
                mapping.failures += 1
                mapping.seen = False
                self.struck = True

    def ended(self, _: bool) -> bool:
        """Whether the work below it ended before the `number`-th call."""
        return self.count <= self.number

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.count == self.number:
                self.lose(self.folder)
            self.count += 1
            match name:
                case "pwritev":
                    older = _bytes_at(args[0], args[2], sum(map(len, args[1])))
                    mapping = self._mapping(args[0])
                    mapping.unsynced.append((args[2], older))
                    self._told.setdefault(args[0], mapping.failures)  # if it was open before
                case "fsync" | "fdatasync":
                    self._sync(args[0])
            result = real(*args, **kwargs)
            if name == "open":
                mapping = self._mapping(result)
                self._told[result] = mapping.failures - (not mapping.seen)
            return result

        return call

    def _sync(self, fd: int) -> None:
        if error := self._take_error(fd):
            raise OSError(error, os.strerror(error))
        self._mapping(fd).unsynced.clear()

    def _take_error(self, fd: int) -> int:
        mapping = self._mapping(fd)
        if self._told.setdefault(fd, mapping.failures) == mapping.failures:
            return 0
        self._told[fd] = mapping.failures
        mapping.seen = True
        return self.error

    def _mapping(self, fd: int) -> _Mapping:
        return self._mappings.setdefault(os.fstat(fd).st_ino, _Mapping())


_open, _pread, _pwrite = os.open, os.pread, os.pwrite


def _bytes_at(fd: int, offset: int, size: int) -> bytes:
    # The descriptor may be for writing only; a hole behind the end reads as zeros.
    again = _open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    try:
        return _pread(again, size, offset).ljust(size, b"\0")
    finally:
        os.close(again)


def _overwrite(fd: int, offset: int, data: bytes) -> None:
    again = _open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    try:
        _pwrite(again, data[: max(0, os.fstat(again).st_size - offset)], offset)
    finally:
        os.close(again)
