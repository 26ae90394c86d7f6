"""Repair of file maps and of what is staged: what cannot be read says so.

A range of a file whose bytes are gone must not be read as zeros, nor as what was there before. So
it is mapped to a lost chunk, and a read of it fails until the file is written anew.
"""

import dataclasses
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from modelfs.jobs.repair.context import Mending
from modelfs.jobs.repair.inodes import remake
from modelfs.jobs.repair.names import adopt
from modelfs.store.files import staging
from modelfs.store.files.content import SIZE_MAX
from modelfs.store.files.staging import window_name
from modelfs.store.index.counters import LOGICAL
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent, Inode, StagedWindow
from modelfs.store.index.tables import Table, number_key, number_of, pair_key, pair_of

# -- maps


def mend_maps(mending: Mending) -> None:
    """Let every extent be one that can be read, or that says that it cannot."""
    sizes_agree = _sizes_agree(mending)
    holes = _suspicious_holes(mending)
    unreadable = _unreadable(mending)
    groups = groupby(list(mending.rows(Table.EXTENTS)), key=lambda row: number_of(row[0]))
    maps = {inode: [extent for _, extent in rows] for inode, rows in groups}
    for inode in sorted(maps.keys() | unreadable.keys()):
        node = mending.node(inode)
        extents = maps.get(inode, [])
        if node is not None and not stat.S_ISREG(node.mode) and extents:
            node = _move_out(mending, node, extents)
        if node is not None and stat.S_ISREG(node.mode):
            starts = unreadable.get(inode, [])
            _mend_map(mending, node, extents, starts, sizes_agree=sizes_agree)
    for inode, start, stop in holes:
        if (node := mending.node(inode)) is not None:
            _lose(mending, node, RangeSet([(start, stop)]), "an extent is missing")


def _suspicious_holes(mending: Mending) -> list[tuple[int, int, int]]:
    # Only as long as what is missing is not explained by an extent that is there, but damaged.
    view = mending.view()
    bad = sum(
        extent.length
        for _, extent in view.extents()
        if (record := view.chunk(extent.chunk)) is None or extent.skip + extent.length > record.size
    )
    if mending.unreadable[Table.EXTENTS] or view.missing <= bad:
        return []
    return list(view.holes(view.missing - bad))


def _sizes_agree(mending: Mending) -> bool:
    # Whether the sizes of all files add up to what was counted when they changed.
    sizes = (node.size for node in mending.view().inodes() if stat.S_ISREG(node.mode))
    return mending.store.totals.get(LOGICAL) == sum(sizes)


def _unreadable(mending: Mending) -> dict[int, list[int]]:
    # Where extents began, in each file, whose rows did not decode.
    found: dict[int, list[int]] = {}
    for key in mending.unreadable[Table.EXTENTS]:
        if len(key) == 16 and pair_of(key)[1] < SIZE_MAX:
            found.setdefault(number_of(key), []).append(pair_of(key)[1])
    return found


def _move_out(mending: Mending, owner: Inode, extents: list[Extent]) -> Inode:
    # Content of what can have none becomes a file of its own.
    inode = mending.new_inode()
    for extent in extents:
        mending.index.delete(Table.EXTENTS, pair_key(owner.inode, extent.start))
        mending.put_extent(inode, extent)
    remake(mending, inode, stat.S_IFREG | 0o600, max(each.stop for each in extents))
    path = adopt(mending, inode)
    mending.mended(f"content of inode {owner.inode}, which is no file, is one of its own", (path,))
    node = mending.node(inode)
    assert node is not None
    return node


def _mend_map(
    mending: Mending,
    node: Inode,
    extents: Sequence[Extent],
    unreadable: list[int],
    *,
    sizes_agree: bool,
) -> None:
    bad, lost = _sift(mending, extents, unreadable)
    good = [each for each in extents if each.start not in bad]
    node = _mend_size(mending, node, good, sizes_agree=sizes_agree)
    if number_key(node.inode) in mending.unreadable[Table.TRIMS]:
        # What was cut off must not come back, and nothing says from where on that is.
        for each in good:
            lost.add(each.start, each.stop)
    for start in sorted(bad):
        mending.drop(Table.EXTENTS, pair_key(node.inode, start), "it cannot be right")
    _lose(mending, node, lost, "its map was damaged")


def _sift(
    mending: Mending, extents: Sequence[Extent], unreadable: list[int]
) -> tuple[set[int], RangeSet]:
    """Return where the extents begin that cannot be right, and the ranges lost with them."""
    step = mending.store.superblock.chunk_size
    starts = sorted({each.start for each in extents} | set(unreadable))
    following = dict(zip(starts, [*starts[1:], SIZE_MAX], strict=True))
    bad: set[int] = set()
    lost = RangeSet((at, min(at + step, following[at])) for at in unreadable)
    widest: Extent | None = None
    for extent in extents:
        record = mending.store.chunks.find(extent.chunk)
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
    mending: Mending, node: Inode, extents: Sequence[Extent], *, sizes_agree: bool
) -> Inode:
    """Let no extent reach past the file's size but where a truncation is under way."""
    reach = max((each.stop for each in extents), default=0)
    trim = _trim_of(mending, node)
    if min(reach, SIZE_MAX if trim is None else trim) <= node.size:
        return node
    if trim is not None or sizes_agree:
        # The size is right, so what is behind it was cut off: ingest goes on with that.
        mending.put(Table.TRIMS, number_key(node.inode), number_key(node.size))
        mending.mended(f"inode {node.inode} is cut at its size", (mending.path(node.inode),))
        return node
    message = f"inode {node.inode} has the size of its content again, {reach}"
    mending.mended(message, (mending.path(node.inode),))
    grown = dataclasses.replace(node, size=reach)
    mending.put_node(grown)
    return grown


def _trim_of(mending: Mending, node: Inode) -> int | None:
    value = mending.index.get(Table.TRIMS, number_key(node.inode))
    return None if value is None else number_of(value)


def _lose(mending: Mending, node: Inode, lost: RangeSet, why: str) -> None:
    lost.remove(node.size, SIZE_MAX)
    if not lost:
        return
    _finish_trim(mending, node)
    tensors: dict[str, None] = {}
    for start, stop in lost:
        tensors |= dict.fromkeys(mending.view().tensors(node.inode, start, stop))
        mending.lose(node.inode, start, stop)
    message = f"inode {node.inode}: {lost.size} bytes are lost, {why}"
    mending.quarantined(message, (mending.path(node.inode),), tensors)


def _finish_trim(mending: Mending, node: Inode) -> None:
    # What is put behind a truncation that is under way would go with it.
    if (trim := _trim_of(mending, node)) is None:
        return
    for extent in list(mending.store.maps.overlapping(node.inode, trim, SIZE_MAX)):
        mending.index.delete(Table.EXTENTS, pair_key(node.inode, extent.start))
        if extent.start < trim:
            mending.put_extent(node.inode, extent.part(extent.start, trim))
    mending.index.delete(Table.TRIMS, number_key(node.inode))


# -- what is staged


def mend_windows(mending: Mending) -> None:
    """Let every staged window have a file with the bytes that its row says."""
    for key, row in list(mending.rows(Table.STAGED)):
        inode, number = pair_of(key)
        start = number * staging.WINDOW
        if any(low < start or high > start + staging.WINDOW for low, high in row.ranges):
            mending.drop(Table.STAGED, key, "it has ranges of other windows")
            _lose_window(mending, inode, number)
        else:
            _mend_window(mending, inode, number, row)
    for key in mending.unreadable[Table.STAGED]:
        if len(key) == 16:
            _lose_window(mending, *pair_of(key))


def _mend_window(mending: Mending, inode: int, number: int, row: StagedWindow) -> None:
    path = mending.store.staging.folder / window_name(inode, number, row.generation)
    start = number * staging.WINDOW
    end = start + path.stat().st_size if path.exists() else start
    there, lost = row.ranges.copy(), row.ranges.copy()
    there.remove(end, SIZE_MAX)
    lost.remove(start, end)
    if path.exists() and not lost:
        return
    node, key = mending.node(inode), pair_key(inode, number)
    assert node is not None
    if there:
        mending.put(Table.STAGED, key, StagedWindow(row.generation, there).to_bytes())
    else:
        mending.index.delete(Table.STAGED, key)
    if lost:
        _lose(mending, node, lost, "they were staged, and the file is gone or cut short")
    else:
        mending.mended(f"inode {inode}: a window with nothing staged in it has no file")


def _lose_window(mending: Mending, inode: int, number: int) -> None:
    """Let everything be lost that may have been staged in a window of which no row tells."""
    node = mending.node(inode)
    start = number * staging.WINDOW
    if node is None or not stat.S_ISREG(node.mode) or start >= node.size:
        return
    files = sorted(mending.store.staging.folder.glob(f"{inode:x}-{number:x}-*"))
    lost = RangeSet()
    for path in files:
        mending.quarantine.add_file(path)
        for low, high in _data_in(path):
            lost.add(start + low, start + high)
    if not files:
        lost.add(start, start + staging.WINDOW)
    _lose(mending, node, lost, "what was staged is not known any more")


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
