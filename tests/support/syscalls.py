"""System calls without a Python function, and mappings that fail without SIGBUS."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
AT_FDCWD: Final = -100

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.restype = ctypes.c_void_p
_libc.readdir.argtypes = [ctypes.c_void_p]
_libc.telldir.restype = ctypes.c_long
_libc.telldir.argtypes = [ctypes.c_void_p]
_libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
_libc.closedir.argtypes = [ctypes.c_void_p]


# The offset of the name in a `struct dirent`: behind inode, position, length and type.
NAME_OFFSET: Final = 8 + 8 + 2 + 1


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def rename2(old: Path, new: Path, flags: int) -> None:
    """Call renameat2(2)."""
    _checked(_libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def fallocate(fd: int, mode: int, offset: int, size: int) -> None:
    """Call the system's own function, without the emulation of posix_fallocate(3)."""
    _checked(_libc.fallocate(fd, mode, offset, size))


class DirectoryStream:
    """A directory read name by name, with positions to return to."""

    def __init__(self, path: Path) -> None:
        self._stream = _libc.opendir(os.fsencode(path))
        assert self._stream, os.strerror(ctypes.get_errno())

    def __iter__(self) -> Iterator[bytes]:
        """Yield the names from the present position on, including `.` and `..`."""
        while entry := _libc.readdir(self._stream):
            yield ctypes.string_at(entry + NAME_OFFSET)

    def tell(self) -> int:
        return int(_libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        _libc.seekdir(self._stream, position)

    def close(self) -> None:
        _libc.closedir(self._stream)


@contextmanager
def directory_stream(path: Path) -> Iterator[DirectoryStream]:
    with closing(DirectoryStream(path)) as stream:
        yield stream


def aligned(data: bytes) -> mmap.mmap:
    """Return `data` in memory that starts on a page, as O_DIRECT needs it."""
    buffer = mmap.mmap(-1, max(len(data), 1))
    buffer[: len(data)] = data
    return buffer


def read_mapped(fd: int) -> bytes:
    """Return the file behind `fd`, read through a shared mapping.

    write(2) copies from the mapping in the kernel, so an unreadable page is an EFAULT. A read of it
    in this process would be a SIGBUS, and end the test run.
    """
    size = os.fstat(fd).st_size
    if size == 0:
        return b""
    with _memory_file() as memory, mmap.mmap(fd, size, prot=mmap.PROT_READ) as mapping:
        os.write(memory, mapping)
        return os.pread(memory, size, 0)


def write_mapped(fd: int, offset: int, data: bytes) -> int:
    """Write `data` through a shared mapping, up to the end of the file; return the size."""
    size = os.fstat(fd).st_size
    if offset >= size or not data:
        return 0
    with _memory_file() as memory, mmap.mmap(fd, size) as mapping:
        os.pwrite(memory, data, 0)
        with memoryview(mapping) as view, view[offset : offset + len(data)] as target:
            return os.preadv(memory, [target], 0)


@contextmanager
def failing(number: int) -> Iterator[None]:
    """Expect an OSError with this errno."""
    with pytest.raises(OSError, match=rf"\[Errno {number}\]"):
        yield


@contextmanager
def _memory_file() -> Iterator[int]:
    fd = os.memfd_create("mapped")
    try:
        yield fd
    finally:
        os.close(fd)
