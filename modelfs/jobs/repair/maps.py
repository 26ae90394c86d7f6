"""Repair of file maps: ranges without a right extent are lost.

Example. A file of 3,000 bytes has extents at 0, 1000 and 2000, and the row of the second is junk.
The gap from 1000 to the next extent is mapped to the lost chunk. If the row is missing instead:
see `missing_extents`.
"""

import dataclasses
import stat
from collections.abc import Sequence
from itertools import groupby

from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.inodes import make_missing
from modelfs.jobs.repair.lost_ranges import lose_ranges, trim_of
from modelfs.jobs.repair.missing_extents import CountedExtents, suspicious_holes
from modelfs.jobs.repair.names import adopt
from modelfs.store.index.counters import LOGICAL
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import SIZE_MAX, Extent, Inode
from modelfs.store.index.tables import Table, number_key, number_of, pair_key, pair_of


def repair_maps(context: RepairContext, counted: CountedExtents) -> None:
    """Make every extent lead to a chunk that can be read, or that is lost.

    Args:
        context: of the round.
        counted: the extents before chunks that count them were removed.
    """
    # Whether the sizes of all files add up to the total, which was counted when they changed.
    sizes = (node.size for node in context.view().inodes() if stat.S_ISREG(node.mode))
    sizes_agree = context.store.counters.get(LOGICAL) == sum(sizes)
    unreadable: dict[int, list[int]] = {}  # where extents began whose rows did not decode
    for key in sorted(context.reported.broken[Table.EXTENTS]):
        if len(key) == 16 and pair_of(key)[1] < SIZE_MAX:
            unreadable.setdefault(number_of(key), []).append(pair_of(key)[1])
    groups = groupby(list(context.rows(Table.EXTENTS)), key=lambda row: number_of(row[0]))
    maps = {inode: [extent for _, extent in rows] for inode, rows in groups}
    gaps = {
        inode: _gaps(context, maps.get(inode, []), starts)
        for inode, starts in unreadable.items()
        if (node := context.node(inode)) is not None and stat.S_ISREG(node.mode)
    }
    holes = list(suspicious_holes(context, counted, maps, gaps))
    for inode in sorted(maps.keys() | unreadable.keys()):
        node = context.node(inode)
        extents = maps.get(inode, [])
        if node is not None and not stat.S_ISREG(node.mode) and extents:
            node = _move_out(context, node, extents)
        if node is not None and stat.S_ISREG(node.mode):
            starts = unreadable.get(inode, [])
            _repair_map(context, node, extents, starts, sizes_agree=sizes_agree)
    for inode, start, stop in holes:
        if (node := context.node(inode)) is not None:
            lose_ranges(context, node, RangeSet([(start, stop)]), "an extent may be missing")
    for inode, ranges in counted.contradicted.items():
        if (node := context.node(inode)) is not None and stat.S_ISREG(node.mode):
            lose_ranges(context, node, ranges, "since counts of extents contradict its map")


def _gaps(context: RepairContext, extents: Sequence[Extent], unreadable: list[int]) -> RangeSet:
    """Return the ranges of unreadable extents: up to the next extent, or of a chunk's size."""
    step = context.store.superblock.chunk_size
    following = _following(extents, unreadable)
    return RangeSet((at, min(at + step, following[at])) for at in unreadable)


def _following(extents: Sequence[Extent], unreadable: list[int]) -> dict[int, int]:
    """Return the start of the next extent, by the start of each extent."""
    starts = sorted({extent.start for extent in extents} | set(unreadable))
    return dict(zip(starts, [*starts[1:], SIZE_MAX], strict=True))


def _move_out(context: RepairContext, owner: Inode, extents: list[Extent]) -> Inode:
    """Move the extents of an inode that is no regular file to a new file, and return that."""
    inode = context.new_inode()
    for extent in extents:
        context.index.delete(Table.EXTENTS, pair_key(owner.inode, extent.start))
        context.put_extent(inode, extent)
    make_missing(context, inode, stat.S_IFREG | 0o600, max(extent.stop for extent in extents))
    path = adopt(context, inode)
    context.repaired(
        f"the content of inode {owner.inode}, which is no file, is a file of its own", (path,)
    )
    node = context.node(inode)
    assert node is not None
    return node


def _repair_map(
    context: RepairContext,
    node: Inode,
    extents: Sequence[Extent],
    unreadable: list[int],
    *,
    sizes_agree: bool,
) -> None:
    """Remove the wrong extents of a file, and map the lost ranges to the lost chunk."""
    bad, lost = _find_wrong_extents(context, extents, unreadable)
    good = [extent for extent in extents if extent.start not in bad]
    node = _repair_size(context, node, good, sizes_agree=sizes_agree)
    if number_key(node.inode) in context.reported.broken[Table.TRIMS]:
        # Bytes that a truncation cut off must not come back, and the row with its size is lost.
        for extent in good:
            lost.add(extent.start, extent.stop)
    for start in sorted(bad):
        context.drop(Table.EXTENTS, pair_key(node.inode, start), "an extent that cannot be right")
    lose_ranges(context, node, lost, "its map was damaged")


def _find_wrong_extents(
    context: RepairContext, extents: Sequence[Extent], unreadable: list[int]
) -> tuple[set[int], RangeSet]:
    """Return the starts of extents that cannot be right, and the ranges that are lost."""
    step = context.store.superblock.chunk_size
    following = _following(extents, unreadable)
    bad: set[int] = set()
    lost = _gaps(context, extents, unreadable)
    widest: Extent | None = None
    for extent in extents:
        record = context.store.chunks.find(extent.chunk)
        if record is None or extent.skip + extent.length > record.size:
            bad.add(extent.start)
            lost.add(extent.start, min(extent.stop, extent.start + step, following[extent.start]))
            continue
        if widest is not None and extent.start < widest.stop:
            # Either of two that overlap may be right: both are lost.
            for overlapping in (widest, extent):
                bad.add(overlapping.start)
                lost.add(overlapping.start, overlapping.stop)
        if widest is None or extent.stop > widest.stop:
            widest = extent
    return bad, lost


def _repair_size(
    context: RepairContext, node: Inode, extents: Sequence[Extent], *, sizes_agree: bool
) -> Inode:
    """Make the extents end at the file's size, and return its record.

    Behind it there may only be extents that a truncation under way is about to remove.
    """
    reach = max((extent.stop for extent in extents), default=0)
    trim = trim_of(context, node)
    if min(reach, SIZE_MAX if trim is None else trim) <= node.size:
        return node
    if trim is not None or sizes_agree:
        # The size is right, so the extents behind it were cut off: ingest removes them.
        context.index.put(Table.TRIMS, number_key(node.inode), number_key(node.size))
        context.repaired(f"inode {node.inode} is cut at its size", (context.path(node.inode),))
        return node
    message = f"inode {node.inode} has the size of its content again, {reach}"
    context.repaired(message, (context.path(node.inode),))
    grown = dataclasses.replace(node, size=reach)
    context.put_node(grown)
    return grown
