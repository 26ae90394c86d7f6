"""Repair of LMDB's meta pages, before LMDB opens the index."""

import os
from pathlib import Path

from modelfs.jobs.check.meta_pages import (
    IS_META,
    PAGE_HEAD,
    both_damaged,
    data_file,
    read_meta_pages,
)
from modelfs.jobs.repair.quarantine import Quarantine


def restore_meta_pages(store: Path, quarantine: Quarantine) -> str | None:
    """Replace a damaged meta page by the other, and return a message; None if both are whole.

    The caller has the store's lock, and LMDB has not opened the index yet.

    Raises:
        IndexLost: both are damaged.
    """
    path = data_file(store)
    metas = read_meta_pages(path)
    if None not in metas:
        return None
    whole = next((meta for meta in metas if meta is not None), None)
    if whole is None:
        raise both_damaged(store)
    quarantine.copy(path, path.name)
    number = metas.index(None)
    header = PAGE_HEAD.pack(number, 0, IS_META, 0)
    with path.open("r+b") as file:
        file.seek(number * whole.page_size)
        file.write(header + whole.page[PAGE_HEAD.size :])
        file.flush()
        os.fsync(file.fileno())
    return (
        f"meta page {number} of the index was damaged: the index is as commit {whole.transaction} "
        "left it; changes of a later commit, if there was one, are lost"
    )
