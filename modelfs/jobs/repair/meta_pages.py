"""Repair of the meta pages of the index, before LMDB opens it.

Theory of operation. The record of the last commit (see `store.index.pages.meta`) has the content of
its meta page. If the newest record is older than the meta pages, or there is none, the pages are
all that is left. Then the fields with the same value in every meta page get it; the root of the
tables is the one page that can be it; and a last page that cannot be gets the end of the file. The
numbers become those of two commits in a row. The later one is on the page whose last list of free
pages has the root of the other's tables. Of such numbers, the right ones agree with the most of:
the numbers of both pages, records with the same trees, and the last lists of free pages, which
count twice.

Of the record and the pages, the one with the largest number is the last commit. A page is believed
only if the tree of tables that it names is sound, or at last, if neither is, by its fields: the
trees are repaired after this.

The other page then is as of the commit before, by itself or by its record, with the trees of the
last commit if its own are not known. If both are wrong, one right page and a wrong one might pass
for two commits in a row, and the wrong one for the last. So the other page is written with a wrong
flag first, and right after the page of the last commit. A crash in between leaves an index that is
refused, and that the next repair completes.

Example. Pages 0 and 1 name commits 8 and 7. There is no record, and the last lists of free pages
are of commits 8 and 9. That of commit 9 has the root that page 0 names, so page 1 is the later one.
Of the numbers that allow that, 8 and 9 agree with most. Page 1 gets the number 9.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import numpy as np

from modelfs.jobs.repair.quarantine import Quarantine
from modelfs.store.disk.directory import Directory
from modelfs.store.index.opening import both_damaged
from modelfs.store.index.pages.data_file import DATA_FILE, LOOSE_PAGES
from modelfs.store.index.pages.layout import LEAF, TREE, DamagedPage, PageFile, nodes_of, value_of
from modelfs.store.index.pages.meta import (
    Meta,
    last_freed,
    last_list,
    newest,
    page_of,
    raw_pages,
    read_metas,
    read_records,
    with_fixed_fields,
)
from modelfs.store.index.pages.meta_check import meta_problems
from modelfs.store.index.pages.sums import PageSums
from modelfs.store.index.pages.uses import Use
from modelfs.store.index.pages.walk import FREE, TABLES, PageWalk
from modelfs.store.index.rebuild import NEW_MAP_SIZE
from modelfs.store.index.tables import Table

# A number that no commit reaches.
NEVER: Final = (1 << 64) - 1
# How often a list of free pages counts. Its number is a key, and those are in order.
LIST_CLAIMS: Final = 2


class RestoredMetas(NamedTuple):
    """A repair of meta pages."""

    message: str
    is_lossless: bool  # the other page names the commit before, so it had no later one


def restore_meta_pages(
    index: Directory, quarantine: Quarantine, note_loss: Callable[[str], None]
) -> RestoredMetas | None:
    """Repair the meta pages; None if nothing is wrong in them.

    The caller has the store's lock, and LMDB has not opened the index yet.

    Args:
        index: its folder.
        quarantine: gets a copy of the damaged file.
        note_loss: is called with the message before the first write, if commits may be lost.

    Raises:
        IndexLost: both are damaged, and there is no record.
        StoreFull, OSError: the disk is full or failed. Nothing has changed.
    """
    with PageFile(index) as file:
        problems, whole = meta_problems(file), newest(read_metas(file))
        last = whole if whole is None else _with_root(file, whole)
        if not problems and last == whole:
            return None
        pages, records = raw_pages(file), read_records(file)
        metas = _with_right_numbers(file, pages, records)
        if problems:
            last = _last_commit(file, metas, newest(records))
        if last is None:
            raise both_damaged(index)
        number = last.transaction - 1
        before = _commit_before(file, last, [*metas, *records])
        is_lossless = any(
            meta.transaction == number
            for meta in (*read_metas(file), _commit_before(file, last, metas))
            if meta is not None
        )
    # Each on its page. Without the commit before: the same trees, since LMDB writes this page next.
    stand_in = last.with_fields(transaction=max(0, number))
    right = {meta.transaction & 1: meta for meta in (before or stand_in, last)}
    right.setdefault(1, last)  # a new file
    wrong = [
        number
        for number, meta in right.items()
        if (page := pages[number]) is None or page != page_of(meta, number)
    ]
    if not wrong:
        return None
    message = f"a meta page of the index was damaged: it is as commit {last.transaction} left it"
    if not is_lossless:
        message += "; changes of a later commit, if there was one, are lost"
    quarantine.copy(index, DATA_FILE)
    if not is_lossless:
        note_loss(message)
    _write_pages(index, {number: right[number] for number in wrong}, last, is_lossless)
    return RestoredMetas(message, is_lossless=is_lossless)


def _write_pages(index: Directory, metas: dict[int, Meta], last: Meta, is_lossless: bool) -> None:
    """Write meta pages, by their numbers, so that an interruption leaves none that misleads.

    If both are written, the page of the commit before is first made one that no process believes,
    then the last commit's is written, and then that page.
    """
    writes = [(number, page_of(meta, number)) for number, meta in metas.items()]
    if len(metas) > 1:
        other = (last.transaction + 1) & 1
        # Without trees of its own it is no sound page of the commit before for the next repair.
        unfinished = metas[other] if is_lossless else metas[other].with_tables(0)
        writes.sort(key=lambda write: write[0] == other)
        writes.insert(0, (other, page_of(unfinished, other, flags=0)))
    with index.opened(DATA_FILE, os.O_RDWR) as fd:
        for number, page in writes:
            os.pwrite(fd, page, number * last.page_size)
            os.fsync(fd)


def _last_commit(file: PageFile, metas: list[Meta], record: Meta | None) -> Meta | None:
    """Return the content of the last commit's meta page; None if no page and no record has it."""
    newest_first = sorted(metas, key=lambda meta: meta.transaction, reverse=True)
    for meta in newest_first:
        if record is not None and record.transaction >= meta.transaction:
            return record
        right = _with_right_sizes(file, _with_root(file, meta))
        if _is_sound(file, right, meta.transaction):
            return right
    return record or newest(read_metas(file))


def _commit_before(file: PageFile, last: Meta, metas: list[Meta]) -> Meta | None:
    """Return the first content that is sound, and of the commit before the last by its lists."""
    for meta in metas:
        with suppress(DamagedPage, OSError):
            if _is_sound(file, meta, last.transaction - 1) and meta.is_of(last_freed(file, meta)):
                return meta
    return None


def _with_right_numbers(
    file: PageFile, pages: list[bytes | None], records: list[Meta]
) -> list[Meta]:
    """Return the meta pages that can be read, with the fields and numbers that they should have."""
    metas = {
        number: with_fixed_fields(page, number, file.page_size)
        for number, page in enumerate(pages)
        if page is not None
    }
    claims = [(number, meta.transaction) for number, meta in metas.items()]
    lists = {
        number: found
        for number, meta in metas.items()
        if (found := _last_list(file, meta)) is not None
    }
    for number, (commit, _) in lists.items():
        # A page that repair has written may have the trees of the commit after its own.
        own = commit - (commit & 1 != number) if commit else number
        claims += LIST_CLAIMS * [(number, own)]
    later = [
        number
        for number, (_, pages_freed) in lists.items()
        if len(lists) == len(pages) and metas[1 - number].tables.root in pages_freed
    ]
    for record in records:
        number = record.transaction & 1
        if number in metas and metas[number].has_trees_of(record):
            claims.append((number, record.transaction))
    right = _consecutive(claims, later[0] if len(later) == 1 else None)
    return [meta.with_fields(transaction=right[number]) for number, meta in metas.items()]


def _last_list(file: PageFile, meta: Meta) -> tuple[int, list[int]] | None:
    """Return the commit of a meta page's last list of free pages, and those pages.

    Without a list, the commit is 0. None if the trees of the page contradict each other.
    """
    try:
        last, commit = last_list(file, meta), last_freed(file, meta)
        walk = PageWalk(
            file, meta.with_fields(last=file.pages + LOOSE_PAGES - 1, transaction=commit)
        )
        if walk.damaged_trees & {FREE, TABLES}:
            return None
        value = value_of(file, last) if last is not None else b""
    except (DamagedPage, OSError):
        return None
    return commit, np.frombuffer(value, "<u8")[1:].tolist()


def _consecutive(claims: list[tuple[int, int]], later: int | None = None) -> tuple[int, int]:
    """Return the numbers of two commits in a row, by page, that agree with the most claims.

    Args:
        claims: page and number of a commit.
        later: the page of the later commit, if that is known.
    """
    pairs = {
        (first, first + 1) if first % 2 == 0 else (first + 1, first)
        for _, number in claims
        for first in (max(0, number - 1), number)
    }
    pairs = {
        pair
        for pair in pairs
        if max(pair) < NEVER and (later is None or pair[later] > pair[1 - later])
    }

    def agreement(pair: tuple[int, int]) -> tuple[int, int]:
        agreeing = sum(pair[page] == number for page, number in claims)
        return agreeing, -sum((pair[page] ^ number).bit_count() for page, number in claims)

    return max(sorted(pairs), key=agreement, default=(0, 1))


def _with_root(file: PageFile, meta: Meta) -> Meta:
    """Return the content of a meta page with the root of its tables, if it names no such page.

    All tables fit into one leaf. Those of earlier commits are in lists of free pages.
    """
    if PageSums.read(file).meta == meta.content:
        return meta  # the page that it names is damaged, and no other one is right
    walk = PageWalk(file, meta.with_fields(last=file.pages + LOOSE_PAGES - 1))
    if TABLES not in walk.damaged_trees or FREE in walk.damaged_trees:
        return meta
    found = [number for number in walk.uses.pages(Use.NONE) if _has_tables(file, number)]
    return meta.with_tables(found[0]) if len(found) == 1 else meta


def _has_tables(file: PageFile, number: int) -> bool:
    """Whether a page is a leaf with nothing but trees of tables."""
    if file.kind(number)[0] != LEAF:
        return False
    try:
        nodes = nodes_of(file.read(number), number, LEAF)
    except (DamagedPage, OSError):
        return False
    names = {table.encode() for table in Table}
    return all(node.flags == TREE and node.key in names for node in nodes)


def _with_right_sizes(file: PageFile, meta: Meta) -> Meta:
    """Return the content of a meta page with a last page and a map that can be."""
    end = file.pages + LOOSE_PAGES - 1
    walk = PageWalk(file, meta.with_fields(last=end))
    if not walk.problems and not walk.uses.highest <= meta.last <= end:
        meta = meta.with_fields(last=max(walk.uses.highest, file.pages - 1))
    return meta if meta.has_map() else meta.with_fields(map_size=NEW_MAP_SIZE)


def _is_sound(file: PageFile, meta: Meta, transaction: int) -> bool:
    """Whether a page is of a commit, and the tree of tables that it names is sound."""
    return meta.transaction == transaction and TABLES not in PageWalk(file, meta).damaged_trees
