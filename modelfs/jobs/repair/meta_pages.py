"""Repair of LMDB's meta pages, before LMDB opens the index."""

import os

from modelfs.jobs.check.meta_pages import (
    IS_META,
    PAGE_HEAD,
    both_damaged,
    read_meta_pages,
)
from modelfs.jobs.repair.quarantine import Quarantine
from modelfs.store.directory import Directory
from modelfs.store.index.data_file import DATA_FILE


def restore_meta_pages(index: Directory, quarantine: Quarantine) -> str | None:
    """Replace a damaged meta page by the other, and return a message; None if both are whole.

    The caller has the store's lock, and LMDB has not opened the index yet.

    Raises:
        IndexLost: both are damaged.
    """
    metas = read_meta_pages(index)
    if None not in metas:
        return None
    whole = next((meta for meta in metas if meta is not None), None)
    if whole is None:
        raise both_damaged(index)
    quarantine.copy(index, DATA_FILE)
    number = metas.index(None)
    header = PAGE_HEAD.pack(number, 0, IS_META, 0)
    with index.opened(DATA_FILE, os.O_RDWR) as fd:
        os.pwrite(fd, header + whole.page[PAGE_HEAD.size :], number * whole.page_size)
        os.fsync(fd)
    return (
        f"meta page {number} of the index was damaged: the index is as commit {whole.transaction} "
        "left it; changes of a later commit, if there was one, are lost"
    )
