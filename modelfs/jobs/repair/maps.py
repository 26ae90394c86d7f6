"""Repair of file maps and of what is staged: what cannot be read says so.

A range of a file whose bytes are gone must not be read as zeros, nor as what was there before. So
it is mapped to a lost chunk, and a read of it fails until the file is written anew.
"""

import dataclasses
import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path

from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.inodes import remake
from modelfs.jobs.repair.names import adopt
from modelfs.store.files import staged_file
from modelfs.store.files.staged_file import window_name
from modelfs.store.index.counters import LOGICAL
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import SIZE_MAX, Extent, Inode, StagedWindow
from modelfs.store.index.tables import Table, number_key, number_of, pair_key, pair_of

# -- maps


def count_missing_extents(context: RepairContext) -> None:
    """Note how many bytes of extents are missing, before chunks that count them are removed."""
    context.missing_bytes = context.view().missing_bytes


def repair_maps(context: RepairContext) -> None:
    """Let every extent be one that can be read, or that says that it cannot."""
    sizes_agree = _sizes_agree(context)
    unreadable = _unreadable(context)
    groups = groupby(list(context.rows(Table.EXTENTS)), key=lambda row: number_of(row[0]))
    maps = {inode: [extent for _, extent in rows] for inode, rows in groups}
    holes = list(_suspicious_holes(context, maps, unreadable))
    for inode in sorted(maps.keys() | unreadable.keys()):
        node = context.node(inode)
        extents = maps.get(inode, [])
        if node is not None and not stat.S_ISREG(node.mode) and extents:
            node = _move_out(context, node, extents)
        if node is not None and stat.S_ISREG(node.mode):
            starts = unreadable.get(inode, [])
            _mend_map(context, node, extents, starts, sizes_agree=sizes_agree)
    for inode, start, stop in holes:
        if (node := context.node(inode)) is not None:
            _lose(context, node, RangeSet([(start, stop)]), "an extent is missing")


def _suspicious_holes(
    context: RepairContext, maps: Mapping[int, list[Extent]], unreadable: Mapping[int, list[int]]
) -> Iterator[tuple[int, int, int]]:
    """Yield inode, start and stop of holes that may be extents of which no row is left.

    They are no longer than the missing extents together, without those of which damaged rows are
    left: these are lost themselves.
    """
    gaps: dict[int, RangeSet] = {}
    for inode, starts in unreadable.items():
        node = context.node(inode)
        if node is not None and stat.S_ISREG(node.mode):
            gaps[inode] = _gaps(context, maps.get(inode, []), starts)
            gaps[inode].remove(node.size, SIZE_MAX)
    left = context.missing_bytes - sum(gap.size for gap in gaps.values())
    left -= _misled_bytes(context, maps) if left > 0 else 0
    for inode, start, stop in context.view().holes(context.missing_bytes) if left > 0 else ():
        hole = RangeSet([(start, stop)])
        for gap in gaps.get(inode, ()):
            hole.remove(*gap)
        yield from ((inode, low, high) for low, high in hole if high - low <= left)


def _misled_bytes(context: RepairContext, maps: Mapping[int, list[Extent]]) -> int:
    # Of extents that lead to no chunk that there ever was, or past its end. An extent of a chunk
    # that lost its record is right, and is not one that another chunk misses.
    known = {number_of(key) for key in context.unreadable[Table.CHUNKS]}
    known.update(chunk for _, chunks in context.rows(Table.HASHES) for chunk in chunks)
    size = 0
    for extent in chain.from_iterable(maps.values()):
        if (record := context.store.chunks.find(extent.chunk)) is None:
            is_misled = extent.chunk not in known
        else:
            is_misled = extent.skip + extent.length > record.size
        size += extent.length if is_misled else 0
    return size


def _gaps(context: RepairContext, extents: Sequence[Extent], unreadable: list[int]) -> RangeSet:
    # The ranges of extents whose rows are not readable: up to the next one, or a chunk's size.
    step = context.store.superblock.chunk_size
    following = _following(extents, unreadable)
    return RangeSet((at, min(at + step, following[at])) for at in unreadable)


def _following(extents: Sequence[Extent], unreadable: list[int]) -> dict[int, int]:
    # For the start of each extent, that of the next one.
    starts = sorted({extent.start for extent in extents} | set(unreadable))
    return dict(zip(starts, [*starts[1:], SIZE_MAX], strict=True))


def _sizes_agree(context: RepairContext) -> bool:
    # Whether the sizes of all files add up to what was counted when they changed.
    sizes = (node.size for node in context.view().inodes() if stat.S_ISREG(node.mode))
    return context.store.counters.get(LOGICAL) == sum(sizes)


def _unreadable(context: RepairContext) -> dict[int, list[int]]:
    # Where extents began, in each file, whose rows did not decode.
    found: dict[int, list[int]] = {}
    for key in context.unreadable[Table.EXTENTS]:
        if len(key) == 16 and pair_of(key)[1] < SIZE_MAX:
            found.setdefault(number_of(key), []).append(pair_of(key)[1])
    return found


def _move_out(context: RepairContext, owner: Inode, extents: list[Extent]) -> Inode:
    # Content of what can have none becomes a file of its own.
    inode = context.new_inode()
    for extent in extents:
        context.index.delete(Table.EXTENTS, pair_key(owner.inode, extent.start))
        context.put_extent(inode, extent)
    remake(context, inode, stat.S_IFREG | 0o600, max(each.stop for each in extents))
    path = adopt(context, inode)
    context.repaired(
        f"content of inode {owner.inode}, which is no file, is one of its own", (path,)
    )
    node = context.node(inode)
    assert node is not None
    return node


def _mend_map(
    context: RepairContext,
    node: Inode,
    extents: Sequence[Extent],
    unreadable: list[int],
    *,
    sizes_agree: bool,
) -> None:
    bad, lost = _sift(context, extents, unreadable)
    good = [each for each in extents if each.start not in bad]
    node = _mend_size(context, node, good, sizes_agree=sizes_agree)
    if number_key(node.inode) in context.unreadable[Table.TRIMS]:
        # What was cut off must not come back, and nothing says from where on that is.
        for each in good:
            lost.add(each.start, each.stop)
    for start in sorted(bad):
        context.drop(Table.EXTENTS, pair_key(node.inode, start), "it cannot be right")
    _lose(context, node, lost, "its map was damaged")


def _sift(
    context: RepairContext, extents: Sequence[Extent], unreadable: list[int]
) -> tuple[set[int], RangeSet]:
    """Return where the extents begin that cannot be right, and the ranges lost with them."""
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
            # Nothing tells which of two is right.
            for each in (widest, extent):
                bad.add(each.start)
                lost.add(each.start, each.stop)
        if widest is None or extent.stop > widest.stop:
            widest = extent
    return bad, lost


def _mend_size(
    context: RepairContext, node: Inode, extents: Sequence[Extent], *, sizes_agree: bool
) -> Inode:
    """Let no extent reach past the file's size but where a truncation is under way."""
    reach = max((each.stop for each in extents), default=0)
    trim = _trim_of(context, node)
    if min(reach, SIZE_MAX if trim is None else trim) <= node.size:
        return node
    if trim is not None or sizes_agree:
        # The size is right, so what is behind it was cut off: ingest goes on with that.
        context.put(Table.TRIMS, number_key(node.inode), number_key(node.size))
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
    lost.remove(node.size, SIZE_MAX)
    if not lost:
        return
    _finish_trim(context, node)
    tensors: dict[str, None] = {}
    for start, stop in lost:
        tensors |= dict.fromkeys(context.view().tensors(node.inode, start, stop))
        context.lose(node.inode, start, stop)
    message = f"inode {node.inode}: {lost.size} bytes are lost, {why}"
    context.quarantined(message, (context.path(node.inode),), tensors)


def _finish_trim(context: RepairContext, node: Inode) -> None:
    # What is put behind a truncation that is under way would go with it.
    if (trim := _trim_of(context, node)) is None:
        return
    for extent in list(context.store.maps.overlapping(node.inode, trim, SIZE_MAX)):
        context.index.delete(Table.EXTENTS, pair_key(node.inode, extent.start))
        if extent.start < trim:
            context.put_extent(node.inode, extent.part(extent.start, trim))
    context.index.delete(Table.TRIMS, number_key(node.inode))


# -- what is staged


def repair_windows(context: RepairContext) -> None:
    """Let every staged window have a file with the bytes that its row says."""
    for key, row in list(context.rows(Table.STAGED)):
        inode, number = pair_of(key)
        start = number * staged_file.WINDOW
        if any(low < start or high > start + staged_file.WINDOW for low, high in row.ranges):
            context.drop(Table.STAGED, key, "it has ranges of other windows")
            _lose_window(context, inode, number)
        else:
            _mend_window(context, inode, number, row)
    for key in context.unreadable[Table.STAGED]:
        if len(key) == 16:
            _lose_window(context, *pair_of(key))


def _mend_window(context: RepairContext, inode: int, number: int, row: StagedWindow) -> None:
    path = context.store.staging.folder / window_name(inode, number, row.generation)
    start = number * staged_file.WINDOW
    end = start + path.stat().st_size if path.exists() else start
    there, lost = row.ranges.copy(), row.ranges.copy()
    there.remove(end, SIZE_MAX)
    lost.remove(start, end)
    if path.exists() and not lost:
        return
    node, key = context.node(inode), pair_key(inode, number)
    assert node is not None
    if there:
        context.put(Table.STAGED, key, StagedWindow(row.generation, there).to_bytes())
    else:
        context.index.delete(Table.STAGED, key)
    if lost:
        _lose(context, node, lost, "they were staged, and the file is gone or cut short")
    else:
        context.repaired(f"inode {inode}: a window with nothing staged in it has no file")


def _lose_window(context: RepairContext, inode: int, number: int) -> None:
    """Let everything be lost that may have been staged in a window of which no row tells."""
    node = context.node(inode)
    start = number * staged_file.WINDOW
    if node is None or not stat.S_ISREG(node.mode) or start >= node.size:
        return
    files = sorted(context.store.staging.folder.glob(f"{inode:x}-{number:x}-*"))
    lost = RangeSet()
    for path in files:
        context.quarantine.add_file(path)
        for low, high in _data_in(path):
            lost.add(start + low, start + high)
    if not files:
        lost.add(start, start + staged_file.WINDOW)
    _lose(context, node, lost, "what was staged is not known any more")


def _data_in(path: Path) -> Iterator[tuple[int, int]]:
    # The parts of a sparse file that were ever written, in whole blocks of the disk.
    with path.open("rb") as file:
        stop = 0
        while True:
            try:
                start = os.lseek(file.fileno(), stop, os.SEEK_DATA)
            except OSError as exc:
                if exc.errno == errno.ENXIO:
                    return
                raise
            stop = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            yield start, stop
