"""Writes of the kernel: to the whole staging file of a file, without a request."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelfs.store.files.whole_file import WholeFile
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.stores import new_file


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
    whole = store.staging.wholes.copy(inode) if staged is None else staged.whole
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
