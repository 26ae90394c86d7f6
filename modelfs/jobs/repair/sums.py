"""Repair of sums: fields and rows that are computed from other rows.

They come last in a round, when the other rows are right. Only the counters of the next numbers come
first, because repair allocates numbers, too.

Example. Chunk 4 has two extents of 100 bytes each; its record has refs 3. `recount_uses` sets refs
2 and ref_bytes 200. If its pack has no other chunk, and its row has no live bytes,
`recount_live_bytes` sets them to the chunk's stored bytes.
"""

import dataclasses
import stat

from modelfs.jobs.check.rows import COUNTERS, counted_totals
from modelfs.jobs.repair.context import RepairContext
from modelfs.store.index.chunk_records import UNKNOWN
from modelfs.store.index.counters import NEXT_COOKIE
from modelfs.store.index.name_records import COOKIE_END
from modelfs.store.index.tables import (
    KEPT,
    KEY_MAX,
    ROOT,
    ChunkId,
    InodeNumber,
    Table,
    number_key,
    number_of,
)


def repair_counters(context: RepairContext) -> None:
    """Set the counters of next numbers above every number in use."""
    counters = context.store.counters
    for counter, table in COUNTERS:
        newest = context.index.floor_key(table, number_key(KEY_MAX), number_key(0))
        in_use = 0 if newest is None else number_of(newest)
        first = max(in_use, ROOT if table is Table.INODES else 0) + 1
        if counters.get(counter) < first:
            counters.set(counter, first)
            context.repaired(f"the counter {counter.decode()} is above all numbers in use again")
    cookies = (number_of(key[8:]) for key, _ in context.rows(Table.LISTING))
    newest_cookie = max((cookie for cookie in cookies if cookie < COOKIE_END), default=0)
    if counters.get(NEXT_COOKIE) <= newest_cookie:
        counters.set(NEXT_COOKIE, newest_cookie + 1)
        context.repaired("the counter of cookies is above all cookies in use again")


def recount_uses(context: RepairContext) -> None:
    """Correct the use counts of all chunks, and the tables that list chunks by them."""
    view = context.view()
    changed = 0
    listed: dict[Table, dict[bytes, bytes]] = {Table.DEAD: {}, Table.BASE_ONLY: {}}
    for chunk, record in list(view.chunks()):
        key = number_key(chunk)
        counted = dataclasses.replace(
            record,
            refs=view.references.extents.get(chunk, 0),
            ref_bytes=view.references.bytes.get(chunk, 0),
            dependants=view.derivations.dependants.get(chunk, 0),
        )
        if counted.is_lost and not counted.alive:
            context.index.delete(Table.CHUNKS, key)
            continue
        if record != counted:
            changed += 1
            context.index.put(Table.CHUNKS, key, counted.to_bytes())
        if counted.base_only:
            is_kept = context.index.get(Table.BASE_ONLY, key) == KEPT and record == counted
            listed[Table.BASE_ONLY][key] = KEPT if is_kept else b""
        elif not counted.alive:
            listed[Table.DEAD][key] = b""
    if changed:
        context.repaired(f"chunks whose use counts are corrected: {changed}")
    for table, rows in listed.items():
        if changed := context.replace_rows(table, rows):
            context.repaired(f"rows of the chunks listed as {table.value} corrected: {changed}")


def rebuild_hashes(context: RepairContext) -> None:
    """Make the table of hashes lead from each hash to all chunks that have it."""
    by_digest: dict[bytes, list[ChunkId]] = {}
    for chunk, record in context.view().chunks():
        if record.digest != UNKNOWN:
            by_digest.setdefault(record.digest, []).append(chunk)
    rows: dict[bytes, bytes] = {}
    for digest, chunks in by_digest.items():
        # Any order of the chunks in a row is right: it stays.
        listed = list(context.store.chunks.with_digest(digest))
        rows[digest] = b"".join(map(number_key, listed if sorted(listed) == chunks else chunks))
    if changed := context.replace_rows(Table.HASHES, rows):
        context.repaired(f"rows of hashes corrected: {changed}")


def recount_live_bytes(context: RepairContext) -> None:
    """Correct the live bytes of each pack."""
    view = context.view()
    for pack, row in list(view.packs()):
        live = view.counts.live_bytes.get(pack, 0)
        if row.live != live:
            counted = dataclasses.replace(row, live=live)
            context.index.put(Table.PACKS, number_key(pack), counted.to_bytes())
            context.repaired(f"the live bytes of pack {pack} are corrected")


def recount_links(context: RepairContext) -> None:
    """Correct the link count of each inode, and the parent of each directory."""
    names: dict[int, int] = {}
    folders: dict[int, int] = {ROOT: ROOT}
    for _, (inode, folder, _) in context.rows(Table.PARENTS):
        names[inode] = names.get(inode, 0) + 1
        folders.setdefault(inode, folder)
    subfolders: dict[int, int] = {}
    for node in context.view().inodes():
        if stat.S_ISDIR(node.mode) and node.inode in names:
            parent = folders[node.inode]
            subfolders[parent] = subfolders.get(parent, 0) + 1
    for node in list(context.view().inodes()):
        is_folder = stat.S_ISDIR(node.mode)
        links = names.get(node.inode, 0)
        if is_folder and (links or node.inode == ROOT):
            links = 2 + subfolders.get(node.inode, 0)
        parent = folders.get(node.inode, 0) if is_folder else 0
        if (node.nlink, node.parent) != (links, parent):
            context.put_node(dataclasses.replace(node, nlink=links, parent=InodeNumber(parent)))
            message = f"the link count and parent of inode {node.inode} are corrected"
            context.repaired(message, (context.path(node.inode),))


def recount_totals(context: RepairContext) -> None:
    """Correct the totals that `stats` and `statfs` show."""
    counters = context.store.counters
    wrong = {
        name: amount
        for name, amount in counted_totals(context.view()).items()
        if counters.get(name) != amount
    }
    for name, amount in wrong.items():
        counters.set(name, amount)
    if wrong:
        context.repaired(f"sizes and counts that `stats` shows, corrected: {len(wrong)}")
