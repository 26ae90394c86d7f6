"""Repair of what only sums up other rows: it is counted anew.

It comes last in a round, when everything that it counts is right; but for the counters of numbers
to hand out, which come first, since repair takes numbers, too.
"""

import dataclasses
import stat

from modelfs.jobs.check.rows import COUNTERS, counted_totals
from modelfs.jobs.check.view import CheckView
from modelfs.jobs.repair.context import RepairContext
from modelfs.store.index.chunk_records import UNKNOWN, Chunk
from modelfs.store.index.counters import NEXT_COOKIE
from modelfs.store.index.records import COOKIE_END, Inode
from modelfs.store.index.tables import (
    KEY_MAX,
    ROOT,
    ChunkId,
    InodeNumber,
    Table,
    number_key,
    number_of,
)


def repair_counters(context: RepairContext) -> None:
    """Move the counters ahead of every number in use."""
    counters = context.store.counters
    for counter, table in COUNTERS:
        newest = context.index.floor(table, number_key(KEY_MAX), number_key(0))
        in_use = 0 if newest is None else number_of(newest[0])
        first = max(in_use, ROOT if table is Table.INODES else 0) + 1
        if counters.get(counter) < first:
            counters.set(counter, first)
            context.repaired(f"the counter {counter.decode()} is ahead of what is in use again")
    cookies = (number_of(key[8:]) for key, _ in context.rows(Table.LISTING))
    newest_cookie = max((each for each in cookies if each < COOKIE_END), default=0)
    if counters.get(NEXT_COOKIE) <= newest_cookie:
        counters.set(NEXT_COOKIE, newest_cookie + 1)
        context.repaired("the counter of cookies is ahead of what is in use again")


def repair_sums(context: RepairContext) -> None:
    """Count everything anew that is a sum."""
    _mend_uses(context)
    _mend_hashes(context)
    _mend_packs(context)
    _mend_links(context)
    _mend_totals(context)


def _mend_uses(context: RepairContext) -> None:
    view = CheckView(context.store)
    changed = 0
    listed: dict[Table, dict[bytes, bytes]] = {Table.DEAD: {}, Table.BASE_ONLY: {}}
    for chunk, record in list(view.chunks()):
        key = number_key(chunk)
        right = _counted(view, chunk, record)
        if right.is_lost and not right.alive:
            context.index.delete(Table.CHUNKS, key)
            continue
        if record != right:
            changed += 1
            context.put(Table.CHUNKS, key, right.to_bytes())
        if right.base_only or not right.alive:
            listed[Table.BASE_ONLY if right.base_only else Table.DEAD][key] = b""
    if changed:
        context.repaired(f"chunks whose uses were counted anew: {changed}")
    for table, rows in listed.items():
        if changed := context.settle(table, rows):
            context.repaired(
                f"chunks listed as {table.value} that are not, or not listed: {changed}"
            )


def _counted(view: CheckView, chunk: ChunkId, record: Chunk) -> Chunk:
    return dataclasses.replace(
        record,
        refs=view.references.extents.get(chunk, 0),
        ref_bytes=view.references.bytes.get(chunk, 0),
        dependants=view.derivations.dependants.get(chunk, 0),
    )


def _mend_hashes(context: RepairContext) -> None:
    wanted: dict[bytes, list[ChunkId]] = {}
    for chunk, record in CheckView(context.store).chunks():
        if record.digest != UNKNOWN:
            wanted.setdefault(record.digest, []).append(chunk)
    rows: dict[bytes, bytes] = {}
    for digest, chunks in wanted.items():
        # Where the order is not that of the numbers, it stays: nothing is wrong with it.
        listed = list(context.store.chunks.with_digest(digest))
        rows[digest] = b"".join(map(number_key, listed if sorted(listed) == chunks else chunks))
    if changed := context.settle(Table.HASHES, rows):
        context.repaired(
            f"hashes that led to the wrong chunks, or did not lead to theirs: {changed}"
        )


def _mend_packs(context: RepairContext) -> None:
    view = CheckView(context.store)
    for pack, row in list(view.packs()):
        live = view.counts.live_bytes.get(pack, 0)
        if row.live != live:
            right = dataclasses.replace(row, live=live)
            context.put(Table.PACKS, number_key(pack), right.to_bytes())
            context.repaired(f"the live bytes of pack {pack} were counted anew")


def _mend_links(context: RepairContext) -> None:
    names: dict[int, int] = {}
    folders: dict[int, int] = {ROOT: ROOT}
    for _, (inode, folder, _) in context.rows(Table.PARENTS):
        names[inode] = names.get(inode, 0) + 1
        folders.setdefault(inode, folder)
    subfolders: dict[int, int] = {}
    for node in CheckView(context.store).inodes():
        if stat.S_ISDIR(node.mode) and node.inode in names:
            above = folders[node.inode]
            subfolders[above] = subfolders.get(above, 0) + 1
    for node in list(CheckView(context.store).inodes()):
        is_folder = stat.S_ISDIR(node.mode)
        links = names.get(node.inode, 0)
        if is_folder and (links or node.inode == ROOT):
            links = 2 + subfolders.get(node.inode, 0)
        _mend_link(context, node, links, folders.get(node.inode, 0) if is_folder else 0)


def _mend_link(context: RepairContext, node: Inode, links: int, parent: int) -> None:
    if (node.nlink, node.parent) != (links, parent):
        right = dataclasses.replace(node, nlink=links, parent=InodeNumber(parent))
        context.put_node(right)
        message = f"inode {node.inode} has the right link count and parent again"
        context.repaired(message, (context.path(node.inode),))


def _mend_totals(context: RepairContext) -> None:
    view = CheckView(context.store)
    counters = context.store.counters
    for name, amount in counted_totals(view).items():
        if counters.get(name) != amount:
            counters.set(name, amount)
            context.repaired(f"{name.decode()} was added up anew")
