"""Repair of staged windows: bytes that their files lack are lost.

Example. Window 0 of inode 5 has the row 0 to 4,096, and its file ends at 1,000. The row becomes 0
to 1,000, and the bytes from 1,000 to 4,096 are mapped to the lost chunk. If the row has a checksum,
which of the 1,000 bytes are right is open: all are lost, and the file goes to quarantine.
"""

import os
import stat
from collections.abc import Iterator

from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.lost_ranges import lose_ranges
from modelfs.store.disk.sparse import data_ranges
from modelfs.store.files.divided import holes_of
from modelfs.store.files.staged_checksums import has_checksum, may_be_shorter, remove_checksum
from modelfs.store.files.window import WHOLE, WINDOW, is_whole, origin_of, window_name
from modelfs.store.index.counters import windows_of_checksums
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import SIZE_MAX, Inode, WindowRanges
from modelfs.store.index.tables import Table, pair_key, pair_of


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
    for key in sorted(context.reported.broken[Table.STAGED]):
        if len(key) == 16:
            _lose_window(context, *pair_of(key))
    for key in sorted(context.reported.broken[Table.LOST]):
        _lose_all_staged(context, key, "the record of its lost bytes was damaged")
    for key in sorted(windows_of_checksums(context.reported.broken[Table.META])):
        _lose_all_staged(context, key, "their checksum was damaged")
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
    origin, key = origin_of(number, row.generation), pair_key(inode, number)
    try:
        name = window_name(inode, number, row.generation)
        length = context.store.staging.directory.status(name).st_size
    except FileNotFoundError:
        length = -1
    end = origin + max(0, length)
    present, lost = row.ranges.copy(), row.ranges.copy()
    present.remove(end, SIZE_MAX)
    lost.remove(0, end)
    holes = holes_of(context.store.staging.directory, key, row)
    if length >= 0 and not holes and (not lost or may_be_shorter(context.index, key, row)):
        return
    if length >= 0 and row.generation & WHOLE:
        lost.update(holes)
        _lose_in_place(context, key, row, lost)
        return
    node = context.node(inode)
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
        lose_ranges(context, node, lost, "which were staged in a file that is gone or cut short")
    else:
        context.repaired(f"inode {inode}: an empty window without a file is removed")


def _lose_in_place(context: RepairContext, key: bytes, row: WindowRanges, lost: RangeSet) -> None:
    """Record bytes of a window as lost, whose file other windows have, too.

    Of a window with a checksum all bytes are: which of the others are right cannot be known.
    """
    before = context.index.get(Table.LOST, key)
    known = WindowRanges.from_bytes(before) if before is not None else None
    if known is not None and known.is_part_of(row):
        if lost.common(known.ranges) == lost:
            return
        lost.update(known.ranges)
    if has_checksum(context.index, key, row):
        lost = row.ranges
    value = WindowRanges(row.generation, lost).to_bytes()
    context.index.put(Table.LOST, key, value)
    remove_checksum(context.index, key)
    inode = pair_of(key)[0]
    message = f"inode {inode}: {lost.size} staged bytes are lost, which its staging file lacks"
    context.quarantined(message, (context.path(inode),), ())


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
    shared = [(key, row) for key, row in _rows_of(context, inode) if row.generation & WHOLE]
    own = window_name(inode, number, 0).removesuffix("0")
    if shared and not any(name.startswith(own) for name in staging.names()):
        _restore_shared(context, node, number, shared)
        return
    lost, longest = RangeSet(), start
    for generation in (0, WHOLE):
        prefix = window_name(inode, number, generation).removesuffix("0")
        origin = origin_of(number, generation)
        for name in sorted(name for name in staging.names() if name.startswith(prefix)):
            if not _has_rows(context, inode, name):
                context.quarantine.add_file(staging, name)
            longest = max(longest, origin + staging.status(name).st_size)
            with staging.opened(name, os.O_RDONLY) as fd:
                for low, high in data_ranges(fd, start - origin):
                    lost.add(origin + low, min(origin + high, start + WINDOW))
    # A file may have been cut short, too: all bytes behind its end may have been in it.
    lost.add(longest, start + WINDOW)
    lose_ranges(context, node, lost, "the record of staged bytes was damaged")


def _restore_shared(
    context: RepairContext, node: Inode, number: int, others: list[tuple[bytes, WindowRanges]]
) -> None:
    """Restore the row of a window whose staging file has other windows of the inode, too.

    Args:
        context: of the repair.
        node: the inode's record.
        number: of the window.
        others: the rows of the other windows.
    """
    key, start = pair_key(node.inode, number), number * WINDOW
    stop = min(start + WINDOW, node.size)
    generation = max(row.generation for _, row in others)
    name = window_name(node.inode, number, generation)
    try:
        length = context.store.staging.directory.status(name).st_size
    except FileNotFoundError:
        length = 0
    if is_whole(generation) and length >= stop:
        # It has the bytes: without checksums, it counts in place of its rows.
        for other, _ in others:
            remove_checksum(context.index, other)
        value = context.index.get(Table.LOST, key)
        if value is not None and WindowRanges.from_bytes(value).generation == generation:
            context.index.put(Table.STAGED, key, value)  # these stay lost
        context.repaired(f"inode {node.inode}: its staging file has the bytes of a damaged record")
        return
    # Of a divided file, or one that was cut short: they stay where they are, and are not read.
    row = WindowRanges(generation, RangeSet([(start, stop)]))
    context.index.put(Table.STAGED, key, row.to_bytes())
    _lose_all_staged(context, key, "the record of staged bytes was damaged")


def _has_rows(context: RepairContext, inode: int, name: str) -> bool:
    """Whether a staging file is of a window that has a row. A whole file has several."""
    rows = _rows_of(context, inode)
    return any(window_name(*pair_of(key), row.generation) == name for key, row in rows)


def _rows_of(context: RepairContext, inode: int) -> Iterator[tuple[bytes, WindowRanges]]:
    """Yield the rows of an inode's windows."""
    for key, row in context.rows(Table.STAGED):
        if pair_of(key)[0] == inode:
            yield key, row
