"""Writes of the kernel: to the whole staging file of a file, without a request."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelfs.store.files.whole_file import WholeFile
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.stores import new_file


class Kernel:
    """Stands for the kernel's registered files."""

    def __init__(self) -> None:
        self.files: dict[int, str] = {}
        self.refuses = False

    def register(self, fd: int) -> int:
        if self.refuses:
            raise OSError(errno.ENFILE, "too many open files")
        number = max(self.files, default=0) + 1
        self.files[number] = os.readlink(f"/proc/self/fd/{fd}")
        return number

    def unregister(self, number: int) -> None:
        del self.files[number]


def passed_file(store: Store, name: bytes, data: bytes = b"") -> InodeNumber:
    """Create a file whose content the kernel has written and closed."""
    inode = new_file(store, name)
    store.staging.begin_whole(store.contents.staged(inode))
    with passed(store, inode) as fd:
        os.pwritev(fd, [data], 0)
    return inode


def whole_of(store: Store, inode: InodeNumber) -> WholeFile:
    """Return the whole file of an inode, or its copy."""
    staged = store.staging.find(inode)
    whole = store.staging.wholes.copies.find(inode) if staged is None else staged.whole
    assert whole is not None
    return whole


def path_of(store: Store, whole: WholeFile) -> Path:
    return store.staging.directory.path / whole.name


@contextmanager
def passed(store: Store, inode: InodeNumber, flags: int = os.O_RDWR) -> Iterator[int]:
    """Open a file inside the block, as the kernel does after an answer of the daemon."""
    whole, writable = whole_of(store, inode), flags != os.O_RDONLY
    whole.opened(writable=writable)
    fd = os.open(path_of(store, whole), flags)
    try:
        yield fd
    finally:
        os.close(fd)
        whole.closed(writable=writable)
