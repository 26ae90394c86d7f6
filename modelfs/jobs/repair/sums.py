"""Repair of what only sums up other rows: it is counted anew.

It comes last in a round, when everything that it counts is right; but for the counters of numbers
to hand out, which come first, since repair takes numbers, too.
"""

import dataclasses
import stat
from typing import Final

from modelfs.jobs.check.rows import COUNTERS, counted_totals
from modelfs.jobs.check.view import View
from modelfs.jobs.repair.context import Mending
from modelfs.store.index.counters import NEXT_COOKIE
from modelfs.store.index.records import UNKNOWN, Chunk, Inode
from modelfs.store.index.tables import (
    KEY_MAX,
    ROOT,
    ChunkId,
    InodeNumber,
    Table,
    number_key,
    number_of,
)

# Cookies that the kernel can hand out to programs: they are offsets to it.
COOKIE_END: Final = 1 << 62


def mend_counters(mending: Mending) -> None:
    """Move the counters ahead of every number in use."""
    totals = mending.store.totals
    for counter, table in COUNTERS:
        newest = mending.index.floor(table, number_key(KEY_MAX), number_key(0))
        in_use = 0 if newest is None else number_of(newest[0])
        first = max(in_use, ROOT if table is Table.INODES else 0) + 1
        if totals.get(counter) < first:
            totals.set(counter, first)
            mending.mended(f"the counter {counter.decode()} is ahead of what is in use again")
    cookies = (number_of(key[8:]) for key, _ in mending.rows(Table.LISTING))
    newest_cookie = max((each for each in cookies if each < COOKIE_END), default=0)
    if totals.get(NEXT_COOKIE) <= newest_cookie:
        totals.set(NEXT_COOKIE, newest_cookie + 1)
        mending.mended("the counter of cookies is ahead of what is in use again")


def mend_sums(mending: Mending) -> None:
    """Count everything anew that is a sum."""
    _mend_uses(mending)
    _mend_hashes(mending)
    _mend_packs(mending)
    _mend_links(mending)
    _mend_totals(mending)


def _mend_uses(mending: Mending) -> None:
    view = View(mending.store)
    changed = 0
    listed: dict[Table, dict[bytes, bytes]] = {Table.DEAD: {}, Table.HELD: {}}
    for chunk, record in list(view.chunks()):
        key = number_key(chunk)
        right = _counted(view, chunk, record)
        if right.is_lost and not right.alive:
            mending.index.delete(Table.CHUNKS, key)
            continue
        if record != right:
            changed += 1
            mending.put(Table.CHUNKS, key, right.to_bytes())
        if right.held or not right.alive:
            listed[Table.HELD if right.held else Table.DEAD][key] = b""
    if changed:
        mending.mended(f"chunks whose uses were counted anew: {changed}")
    for table, rows in listed.items():
        if changed := mending.settle(table, rows):
            mending.mended(f"chunks listed as {table.value} that are not, or not listed: {changed}")


def _counted(view: View, chunk: ChunkId, record: Chunk) -> Chunk:
    return dataclasses.replace(
        record,
        uses=view.usage.uses.get(chunk, 0),
        used=view.usage.used.get(chunk, 0),
        pins=view.links_of.pins.get(chunk, 0),
    )


def _mend_hashes(mending: Mending) -> None:
    wanted: dict[bytes, list[ChunkId]] = {}
    for chunk, record in View(mending.store).chunks():
        if record.digest != UNKNOWN:
            wanted.setdefault(record.digest, []).append(chunk)
    rows: dict[bytes, bytes] = {}
    for digest, chunks in wanted.items():
        # Where the order is not that of the numbers, it stays: nothing is wrong with it.
        listed = list(mending.store.chunks.with_digest(digest))
        rows[digest] = b"".join(map(number_key, listed if sorted(listed) == chunks else chunks))
    if changed := mending.settle(Table.HASHES, rows):
        mending.mended(f"hashes that led to the wrong chunks, or did not lead to theirs: {changed}")


def _mend_packs(mending: Mending) -> None:
    view = View(mending.store)
    for pack, row in list(view.packs()):
        live = view.census.live.get(pack, 0)
        if row.live != live:
            right = dataclasses.replace(row, live=live)
            mending.put(Table.PACKS, number_key(pack), right.to_bytes())
            mending.mended(f"the live bytes of pack {pack} were counted anew")


def _mend_links(mending: Mending) -> None:
    names: dict[int, int] = {}
    folders: dict[int, int] = {ROOT: ROOT}
    for _, (inode, folder, _) in mending.rows(Table.PARENTS):
        names[inode] = names.get(inode, 0) + 1
        folders.setdefault(inode, folder)
    subfolders: dict[int, int] = {}
    for node in View(mending.store).inodes():
        if stat.S_ISDIR(node.mode) and node.inode in names:
            above = folders[node.inode]
            subfolders[above] = subfolders.get(above, 0) + 1
    for node in list(View(mending.store).inodes()):
        is_folder = stat.S_ISDIR(node.mode)
        links = names.get(node.inode, 0)
        if is_folder and (links or node.inode == ROOT):
            links = 2 + subfolders.get(node.inode, 0)
        _mend_link(mending, node, links, folders.get(node.inode, 0) if is_folder else 0)


def _mend_link(mending: Mending, node: Inode, links: int, parent: int) -> None:
    if (node.nlink, node.parent) != (links, parent):
        right = dataclasses.replace(node, nlink=links, parent=InodeNumber(parent))
        mending.put_node(right)
        message = f"inode {node.inode} has the right link count and parent again"
        mending.mended(message, (mending.path(node.inode),))


def _mend_totals(mending: Mending) -> None:
    view = View(mending.store)
    totals = mending.store.totals
    for name, amount in counted_totals(view).items():
        if totals.get(name) != amount:
            totals.set(name, amount)
            mending.mended(f"{name.decode()} was added up anew")
