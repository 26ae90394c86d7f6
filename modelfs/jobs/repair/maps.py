"""Repair of file maps and of staged windows: lost ranges are mapped to a lost chunk.

A range whose bytes are lost must not be read as zeros, nor as older bytes. Mapped to a lost chunk,
it makes reads fail until it is written again.

Example. A file of 3,000 bytes has extents at 0, 1000 and 2000, and the row of the second is junk.
The gap from 1000 to the next extent is mapped to the lost chunk. If the row is missing instead:
see `missing_extents`.
"""

import dataclasses
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from itertools import groupby

from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.inodes import make_missing
from modelfs.jobs.repair.missing_extents import suspicious_holes
from modelfs.jobs.repair.names import adopt
from modelfs.store.disk.directory import Directory
from modelfs.store.files.staged_checksums import has_checksum, remove_checksum
from modelfs.store.files.window import WINDOW, window_name
from modelfs.store.index.counters import LOGICAL
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import SIZE_MAX, Extent, Inode, WindowRanges
from modelfs.store.index.tables import Table, number_key, number_of, pair_key, pair_of

# -- maps


def repair_maps(context: RepairContext) -> None:
    """Make every extent lead to a chunk that can be read, or that is lost."""
    # Whether the sizes of all files add up to the total, which was counted when they changed.
    sizes = (node.size for node in context.view().inodes() if stat.S_ISREG(node.mode))
    sizes_agree = context.store.counters.get(LOGICAL) == sum(sizes)
    unreadable: dict[int, list[int]] = {}  # where extents began whose rows did not decode
    for key in context.unreadable[Table.EXTENTS]:
        if len(key) == 16 and pair_of(key)[1] < SIZE_MAX:
            unreadable.setdefault(number_of(key), []).append(pair_of(key)[1])
    groups = groupby(list(context.rows(Table.EXTENTS)), key=lambda row: number_of(row[0]))
    maps = {inode: [extent for _, extent in rows] for inode, rows in groups}
    gaps = {
        inode: _gaps(context, maps.get(inode, []), starts)
        for inode, starts in unreadable.items()
        if (node := context.node(inode)) is not None and stat.S_ISREG(node.mode)
    }
    holes = list(suspicious_holes(context, maps, gaps))
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
            _lose(context, node, RangeSet([(start, stop)]), "an extent may be missing")
    for inode, ranges in context.contradicted.items():
        if (node := context.node(inode)) is not None and stat.S_ISREG(node.mode):
            _lose(context, node, ranges, "since counts of extents contradict its map")


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
    if number_key(node.inode) in context.unreadable[Table.TRIMS]:
        # Bytes that a truncation cut off must not come back, and the row with its size is lost.
        for extent in good:
            lost.add(extent.start, extent.stop)
    for start in sorted(bad):
        context.drop(Table.EXTENTS, pair_key(node.inode, start), "an extent that cannot be right")
    _lose(context, node, lost, "its map was damaged")


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
    trim = _trim_of(context, node)
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


def _trim_of(context: RepairContext, node: Inode) -> int | None:
    value = context.index.get(Table.TRIMS, number_key(node.inode))
    return None if value is None else number_of(value)


def _lose(context: RepairContext, node: Inode, lost: RangeSet, why: str) -> None:
    """Map ranges of a file to the lost chunk, and report them."""
    lost.remove(node.size, SIZE_MAX)
    if not lost:
        return
    if (trim := _trim_of(context, node)) is not None:
        # Finish the truncation under way, which would remove lost extents behind its size.
        for extent in list(context.store.maps.overlapping(node.inode, trim, SIZE_MAX)):
            context.index.delete(Table.EXTENTS, pair_key(node.inode, extent.start))
            if extent.start < trim:
                context.put_extent(node.inode, extent.part(extent.start, trim))
        context.index.delete(Table.TRIMS, number_key(node.inode))
    tensors: dict[str, None] = {}
    for start, stop in lost:
        tensors |= dict.fromkeys(context.view().tensors(node.inode, start, stop))
        context.lose(node.inode, start, stop)
    message = f"inode {node.inode}: {lost.size} bytes are lost, {why}"
    context.quarantined(message, (context.path(node.inode),), tensors)


# -- staged windows


def repair_windows(context: RepairContext) -> None:
    """Make every staged window have a file with the bytes of its row's ranges."""
    for key, row in list(context.rows(Table.STAGED)):
        inode, number = pair_of(key)
        start = number * WINDOW
        if any(low < start or high > start + WINDOW for low, high in row.ranges):
            context.drop(Table.STAGED, key, "it has ranges of other windows")
            _lose_window(context, inode, number)
        else:
            _repair_window(context, inode, number, row)
    for key in context.unreadable[Table.STAGED]:
        if len(key) == 16:
            _lose_window(context, *pair_of(key))
    for key in context.unreadable[Table.LOST]:
        _lose_all_staged(context, key, "the record of its lost bytes was damaged")
    for key in sorted(context.reported.damaged_windows):
        _lose_all_staged(context, key, "they do not match their checksum")
    for key, lost in list(context.rows(Table.LOST)):
        window = context.index.get(Table.STAGED, key)
        if window is None or not lost.is_part_of(WindowRanges.from_bytes(window)):
            context.drop(Table.LOST, key, "it belongs to no staged window")
            _lose_all_staged(context, key, "the record of its lost bytes was damaged")


def _lose_all_staged(context: RepairContext, key: bytes, why: str) -> None:
    """Record that all bytes of a window are lost."""
    value = context.index.get(Table.STAGED, key)
    if value is None:
        return
    row = WindowRanges.from_bytes(value)
    context.index.put(Table.LOST, key, value)
    remove_checksum(context.index, key)
    inode = pair_of(key)[0]
    message = f"inode {inode}: {row.ranges.size} staged bytes count as lost: {why}"
    tensors = [
        name for low, high in row.ranges for name in context.view().tensors(inode, low, high)
    ]
    context.quarantined(message, (context.path(inode),), tensors)


def _repair_window(context: RepairContext, inode: int, number: int, row: WindowRanges) -> None:
    """Cut the ranges of a window to the length of its file; the rest is lost."""
    start = number * WINDOW
    try:
        name = window_name(inode, number, row.generation)
        length = context.store.staging.directory.status(name).st_size
    except FileNotFoundError:
        length = -1
    end = start + max(0, length)
    present, lost = row.ranges.copy(), row.ranges.copy()
    present.remove(end, SIZE_MAX)
    lost.remove(start, end)
    if length >= 0 and not lost:
        return
    node, key = context.node(inode), pair_key(inode, number)
    assert node is not None
    if present and has_checksum(context.index, key, row):
        # Which of the bytes that are left are right cannot be known.
        context.quarantine.add_file(context.store.staging.directory, name)
        present, lost = RangeSet(), row.ranges.copy()
    remove_checksum(context.index, key)
    if present:
        context.index.put(Table.STAGED, key, WindowRanges(row.generation, present).to_bytes())
    else:
        context.index.delete(Table.STAGED, key)
    _cut_lost_bytes(context, key, present)
    if lost:
        _lose(context, node, lost, "which were staged in a file that is gone or cut short")
    else:
        context.repaired(f"inode {inode}: an empty window without a file is removed")


def _cut_lost_bytes(context: RepairContext, key: bytes, present: RangeSet) -> None:
    """Remove from a window's record of lost bytes those that it no longer has."""
    value = context.index.get(Table.LOST, key)
    if value is None:
        return
    row = WindowRanges.from_bytes(value)
    if kept := present.common(row.ranges):
        context.index.put(Table.LOST, key, WindowRanges(row.generation, kept).to_bytes())
    else:
        context.index.delete(Table.LOST, key)


def _lose_window(context: RepairContext, inode: int, number: int) -> None:
    """Map all bytes that may have been staged in a window without a row to the lost chunk."""
    node = context.node(inode)
    start = number * WINDOW
    if node is None or not stat.S_ISREG(node.mode) or start >= node.size:
        return
    staging = context.store.staging.directory
    prefix = window_name(inode, number, 0).removesuffix("0")
    files = sorted(name for name in staging.names() if name.startswith(prefix))
    lost, longest = RangeSet(), 0
    for name in files:
        context.quarantine.add_file(staging, name)
        longest = max(longest, staging.status(name).st_size)
        for low, high in _data_in(staging, name):
            lost.add(start + low, start + high)
    # A file may have been cut short, too: all bytes behind its end may have been in it.
    lost.add(start + longest, start + WINDOW)
    _lose(context, node, lost, "the record of staged bytes was damaged")


def _data_in(folder: Directory, name: str) -> Iterator[tuple[int, int]]:
    """Yield the parts of a sparse file that were ever written, in whole blocks of the disk."""
    with folder.opened(name, os.O_RDONLY) as fd:
        stop = 0
        while True:
            try:
                start = os.lseek(fd, stop, os.SEEK_DATA)
            except OSError as exc:
                if exc.errno == errno.ENXIO:
                    return
                raise
            stop = os.lseek(fd, start, os.SEEK_HOLE)
            yield start, stop
