"""Passes and regions: a pass goes once through a file, one region after the other.

Example. A new file of 300 MiB is staged in windows 0 to 4 of 64 MiB. Its pass has three regions, of
two windows, two windows, and one. Later a byte at 200 MiB is edited. The next pass has one region:
it compares the file's 300 extents with the cut, and reads the one piece that has a staged byte.
"""

from dataclasses import dataclass, field
from typing import Final

from modelfs.formats.layout import Layout
from modelfs.jobs.ingest.chunker import Cutter, Piece
from modelfs.jobs.ingest.external_data import Place
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.staged_file import StagedFile, is_being_written, stamp_of
from modelfs.store.files.window import WINDOW, Stamp, Window, windows_of
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import KEY_MAX, InodeNumber

# The most staged bytes of one region, about, and its most extents.
REGION_BYTES: Final = 2 * WINDOW
REGION_EXTENTS: Final = 4096


@dataclass(slots=True)
class Pass:
    """One walk through a file.

    The owner's thread changes it between regions. The worker, during the first region, sets the
    plan: `layout`, `cutter`, `places`, `copy_key` and `rows`.
    """

    inode: InodeNumber
    complete: bool  # no program is writing the file: its layout is final
    urgent: bool = False  # room is short: take all bytes, however the file will go on
    models: dict[InodeNumber, StagedFile] = field(default_factory=dict)  # that name it; copies
    request: bytes | None = None  # the file's row in PENDING when the pass began
    layout: Layout | None = None
    cutter: Cutter | None = None
    places: set[Place] = field(default_factory=set)  # of data files that it names
    copy_key: bytes | None = None
    rows: list[tuple[bytes, bytes | None]] = field(default_factory=list)  # tensor rows to change
    position: int = 0
    end: int = KEY_MAX  # no region begins there or behind
    stamps: dict[int, Stamp] = field(default_factory=dict)  # of windows, at the beginning
    skipped: set[int] = field(default_factory=set)  # windows with pieces that were not applied
    is_cut: bool = True  # False: there was no room to cut mapped bytes as the layout has them
    done: bool = False
    cuts: int = 0  # of all whole files, at the beginning

    @property
    def takes_all(self) -> bool:
        """Whether the pass takes all staged bytes, not only whole windows."""
        return self.complete or self.urgent

    def has_taken(self, staged: StagedFile) -> bool:
        """Whether every byte of a whole file is in the map, at the end of the pass."""
        return all(map(self.covers, staged.windows.values()))

    def covers(self, window: Window) -> bool:
        """Whether every byte of a window is in the map, once its region is applied."""
        return (
            window.number not in self.skipped
            and window.stamp == self.stamps.get(window.number)
            and not window.file.writing
        )

    def changed_under(self, extent: Extent, staged: StagedFile | None) -> bool:
        """Whether the file was written or cut in the range of an extent since the pass began."""
        visible_to = None if staged is None else staged.map_visible_to
        if visible_to is not None and extent.stop > visible_to:
            return True
        return any(
            (number in self.stamps and stamp_of(staged, number) != self.stamps[number])
            or is_being_written(staged, number)
            for number in windows_of(extent.start, extent.stop)
        )


@dataclass(slots=True)
class Region:
    """One region of a pass: the staged state, and the extents that the worker makes of it."""

    file_pass: Pass
    staged: StagedFile  # a copy
    start: int
    stop: int
    extents: list[Extent] = field(default_factory=list)
    unfinished: list[Piece] = field(default_factory=list)  # not put into chunks
    recut: set[Piece] = field(default_factory=set)  # pieces without staged bytes

    def owns(self, piece: Piece) -> bool:
        """Whether a piece is ingested with this region: that in which it begins.

        A partial pass leaves out windows. A piece that begins in one of them and reaches into this
        region is ingested with it, too, as no other region has the piece.
        """
        begins = self.start <= piece.start < self.stop
        return begins or (not self.file_pass.takes_all and piece.start < self.start < piece.stop)

    def mapped_windows(self, staged: StagedFile) -> list[Window]:
        """Return the windows of the region whose every byte is in the map once this is applied."""
        return [
            window
            for window in staged.windows.values()
            if self.start <= window.start < self.stop
            and not window.is_whole  # those are dropped together, at the end of the pass
            and self.file_pass.covers(window)
        ]


def next_bounds(staged: StagedFile, maps: FileMaps, start: int) -> tuple[int, int] | None:
    """Return the bounds of the next region from `start` on, None at the end of the data.

    They are window boundaries, so that skeleton chunks do not depend on the division into regions.
    """
    windows = sorted(number for number in staged.windows if (number + 1) * WINDOW > start)
    extents, more = maps.starts(staged.inode, start, REGION_EXTENTS)
    extents = [offset for offset in extents if not staged.hides_map(offset)]
    first = min([*(number * WINDOW for number in windows[:1]), *extents[:1]], default=None)
    if first is None:
        return None
    stop = -(-staged.size // WINDOW) * WINDOW
    staged_bytes = 0
    for number in windows:
        staged_bytes += staged.windows[number].ranges.size
        if staged_bytes > REGION_BYTES:
            stop = number * WINDOW
            break
    if more and extents:
        stop = min(stop, extents[-1] // WINDOW * WINDOW)
    start = max(start, first // WINDOW * WINDOW)
    return start, max(stop, start // WINDOW * WINDOW + WINDOW)


def next_full_bounds(staged: StagedFile, start: int) -> tuple[int, int] | None:
    """Return the bounds of the next run of windows without a hole, None if there is none."""
    full = [number for number in sorted(staged.windows) if staged.windows[number].full]
    full = [number for number in full if number * WINDOW >= start]
    if not full:
        return None
    last = full[0]
    while last + 1 in full and (last + 1 - full[0]) * WINDOW < REGION_BYTES:
        last += 1
    return full[0] * WINDOW, (last + 1) * WINDOW


def data_around(region: Region, maps: FileMaps, margin: int) -> RangeSet:
    """Return the ranges with data, staged or mapped, in a region and a margin around it.

    Args:
        region: the region.
        maps: of the store.
        margin: the chunk size. No piece that begins before the region, or ends behind it, is then
            clipped.
    """
    start = max(0, region.start - margin)
    stop = min(region.stop + margin, region.staged.size)
    data = RangeSet((low, high) for _, low, high in region.staged.within(start, stop))
    mapped_to = region.staged.map_end(stop)
    for extent in maps.within(region.file_pass.inode, start, mapped_to):
        data.add(extent.start, extent.stop)
    return data
