"""Regions cover the data of a file once, and a pass notices each change beside it."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Final, cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from modelfs.jobs.ingest import passes
from modelfs.jobs.ingest.apply import Applier
from modelfs.jobs.ingest.chunker import Piece, Role
from modelfs.jobs.ingest.passes import (
    REGION_BYTES,
    Pass,
    Region,
    data_around,
    next_bounds,
    next_full_bounds,
)
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.files.window import WHOLE, WINDOW, Window
from modelfs.store.files.window_file import WindowFile
from modelfs.store.files.writes import write_part
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import ChunkId, InodeNumber
from modelfs.store.store import Store
from tests.support.ingest_regions import apply, begin_region, run
from tests.support.stores import WINDOW as SMALL
from tests.support.stores import new_file, noise, staged_of, stored_file

INODE: Final = InodeNumber(5)
UNIT: Final = WINDOW // 4  # files of these tests are made of units
UNITS: Final = 40
EXTENTS_MAX: Final = 3  # of a region, about

Units = frozenset[int]


@pytest.fixture(scope="module", autouse=True)
def few_extents() -> Iterator[None]:
    """Let a few extents be enough for a region."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "REGION_EXTENTS", EXTENTS_MAX)
        yield


class Maps:
    """Stands for the maps of files: the extents of one file, in order."""

    def __init__(self, extents: list[Extent]) -> None:
        self._extents = extents

    def starts(self, inode: InodeNumber, start: int, limit: int) -> tuple[list[int], bool]:
        found = [each.start for each in self._extents if each.start >= start][:limit]
        return found, len(found) == limit

    def within(self, inode: InodeNumber, start: int, stop: int) -> Iterator[Extent]:
        for each in self._extents:
            if each.start < stop and start < each.stop:
                yield each.part(max(start, each.start), min(stop, each.stop))


class File:
    """A file of units, of which some are staged and some are mapped."""

    def __init__(
        self, size: int, staged: Units, extents: list[Extent], visible_to: int | None = None
    ) -> None:
        """Sizes and offsets are in units; `extents` are in bytes."""
        visible = None if visible_to is None else visible_to * UNIT
        self.staged = StagedFile(INODE, size * UNIT, 0, 0, size * UNIT, visible)
        for unit in staged:
            number = unit * UNIT // WINDOW
            window = self.staged.windows.setdefault(number, empty_window(number))
            window.ranges.add(unit * UNIT, (unit + 1) * UNIT)
        self.extents = extents
        self.maps = cast("FileMaps", Maps(extents))

    @property
    def visible(self) -> list[Extent]:
        return [each for each in self.extents if not self.staged.hides_map(each.start)]

    def staged_in(self, start: int, stop: int) -> int:
        ranges = self.staged.ranges().within(start, stop)
        return sum(high - low for low, high in ranges)

    def regions(self) -> list[tuple[int, int]]:
        """Return the bounds of all regions of a pass."""
        return walk(lambda start: next_bounds(self.staged, self.maps, start))


def empty_window(number: int) -> Window:
    return Window(number, 1, cast("WindowFile", SimpleNamespace(writing=0, failures=0)))


def walk(following: Callable[[int], tuple[int, int] | None]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    position = 0
    while (bounds := following(position)) is not None:
        assert len(found) < UNITS
        found.append(bounds)
        position = bounds[1]
    return found


@st.composite
def files(draw: st.DrawFn) -> File:
    """Draw a file with runs of staged units, extents, and maybe a truncation."""
    size = draw(st.integers(0, UNITS))
    units = st.frozensets(st.integers(0, max(0, size - 1)))
    everything = frozenset(range(size))
    staged = draw(units | st.just(everything) | st.just(frozenset[int]())) & everything
    cuts = sorted({0, size, *draw(st.frozensets(st.integers(0, size)))})
    holes = draw(st.frozensets(st.integers(0, UNITS)))
    extents = [
        Extent(low * UNIT, ChunkId(1 + low), 0, (high - low) * UNIT)
        for low, high in pairwise(cuts)
        if low not in holes
    ]
    return File(size, staged, extents, draw(st.none() | st.integers(0, size)))


# -- regions of a complete pass


@given(files())
def test_regions_have_all_data_once(file: File) -> None:
    """Regions follow each other at bounds of windows; each window and each extent begins in one."""
    regions = file.regions()
    assert all(start < stop for start, stop in regions)
    assert all(before[1] <= after[0] for before, after in pairwise(regions))
    assert all(bound % WINDOW == 0 for bounds in regions for bound in bounds)
    starts = [number * WINDOW for number in file.staged.windows]
    starts += [each.start for each in file.visible]
    for offset in starts:
        assert sum(start <= offset < stop for start, stop in regions) == 1, offset


@given(files())
def test_a_region_begins_with_data(file: File) -> None:
    """Holes before the data of a region are no part of it, and without data there is none."""
    windows = {*file.staged.windows} | {each.start // WINDOW for each in file.visible}
    assert all(start // WINDOW in windows for start, _ in file.regions())
    assert bool(file.regions()) == bool(windows)


@given(files())
def test_a_region_is_bounded(file: File) -> None:
    """It has few staged bytes and few extents, or is one window."""
    for start, stop in file.regions():
        assert file.staged_in(start, stop) <= REGION_BYTES
        begun = [each for each in file.visible if start <= each.start < stop]
        assert len(begun) <= EXTENTS_MAX or stop - start == WINDOW


@given(files())
def test_a_region_is_no_shorter_than_it_must_be(file: File) -> None:
    """Before the end of the file a region ends only where the next window would be too much.

    Hidden extents count as well: a region may end before them, and so be a little shorter.
    """
    assume(file.visible == file.extents)
    for start, stop in file.regions():
        if stop < file.staged.size:
            following = [number for number in file.staged.windows if number * WINDOW >= stop]
            end = (min(following, default=UNITS) + 1) * WINDOW
            begun = [each for each in file.extents if start <= each.start < stop + WINDOW]
            too_many = len(begun) >= EXTENTS_MAX
            assert too_many or file.staged_in(start, end) > REGION_BYTES


@pytest.mark.parametrize(
    ("size", "staged", "regions"),
    [
        (0, range(0), []),
        (1, range(1), [(0, 1)]),
        (4, range(4), [(0, 1)]),
        (5, range(5), [(0, 2)]),
        (8, range(8), [(0, 2)]),
        (9, range(9), [(0, 2), (2, 3)]),
        (20, range(20), [(0, 2), (2, 4), (4, 5)]),  # the example of the module
        (20, range(12, 13), [(3, 5)]),
        (20, (0, 19), [(0, 5)]),
        (20, (*range(8), 19), [(0, 4), (4, 5)]),
    ],
)
def test_regions_of_staged_files(
    size: int, staged: range | tuple[int, ...], regions: list[tuple[int, int]]
) -> None:
    """Sizes are in units, four to a window; the bounds are windows."""
    file = File(size, frozenset(staged), [])
    assert [(start // WINDOW, stop // WINDOW) for start, stop in file.regions()] == regions


def test_a_region_may_begin_in_the_middle_of_a_window() -> None:
    """From an offset within a window on, the region ends at a bound of windows."""
    file = File(20, frozenset(range(20)), [])
    assert next_bounds(file.staged, file.maps, 5 * UNIT) == (5 * UNIT, 3 * WINDOW)


def test_extents_of_one_window_stay_together() -> None:
    """A window with more extents than a region has is a region; the next one has the others."""
    extents = [Extent(at, ChunkId(1), 0, 10) for at in (*range(0, 50, 10), WINDOW, 3 * WINDOW)]
    file = File(20, frozenset(), extents)
    assert file.regions() == [(0, WINDOW), (WINDOW, 5 * WINDOW)]


def test_extents_behind_a_truncation_are_no_data() -> None:
    """The hidden part of the map begins no region, however many extents it has."""
    extents = [Extent(unit * UNIT, ChunkId(1), 0, UNIT) for unit in range(20)]
    assert File(20, frozenset(), extents, visible_to=0).regions() == []
    assert File(20, frozenset(), extents[:2], visible_to=1).regions() == [(0, 5 * WINDOW)]
    assert File(20, frozenset({17}), extents, visible_to=0).regions() == [(4 * WINDOW, 5 * WINDOW)]


# -- regions of a partial pass


@given(files())
def test_full_regions_are_runs_of_whole_windows(file: File) -> None:
    """They have all windows without a hole, no other one, and are as long as is permitted."""
    full = {number for number, window in file.staged.windows.items() if window.full}
    regions = walk(lambda start: next_full_bounds(file.staged, start))
    taken = [range(start // WINDOW, stop // WINDOW) for start, stop in regions]
    assert [number for numbers in taken for number in numbers] == sorted(full)
    assert all((start % WINDOW, stop % WINDOW) == (0, 0) for start, stop in regions)
    for start, stop in regions:
        assert stop - start == REGION_BYTES or stop // WINDOW not in full
        assert stop - start <= REGION_BYTES


def test_a_window_that_began_before_is_not_full_again() -> None:
    """The run begins with a window that begins at the offset or behind it."""
    file = File(20, frozenset(range(20)), [])
    assert next_full_bounds(file.staged, 0) == (0, 2 * WINDOW)
    assert next_full_bounds(file.staged, 1) == (WINDOW, 3 * WINDOW)
    assert next_full_bounds(file.staged, WINDOW) == (WINDOW, 3 * WINDOW)
    assert next_full_bounds(file.staged, 4 * WINDOW) == (4 * WINDOW, 5 * WINDOW)
    assert next_full_bounds(file.staged, 4 * WINDOW + 1) is None


# -- pieces and data of a region


@given(files(), st.lists(st.integers(1, UNITS * UNIT - 1), max_size=20))
def test_a_piece_belongs_to_one_region(file: File, cuts: list[int]) -> None:
    """Of the pieces of a complete pass, each that begins in a region is of that one alone."""
    file_pass = Pass(INODE, complete=True)
    regions = [Region(file_pass, file.staged, *bounds) for bounds in file.regions()]
    bounds = sorted({0, UNITS * UNIT, *cuts})
    for start, stop in pairwise(bounds):
        owners = [region for region in regions if region.owns(Piece(start, stop, Role.TENSOR))]
        assert owners == [region for region in regions if region.start <= start < region.stop]
        assert len(owners) <= 1


@pytest.mark.parametrize(
    ("start", "stop", "complete", "urgent", "owned"),
    [
        (4, 5, False, False, True),
        (7, 9, False, False, True),
        (3, 5, False, False, True),  # begins in a window that is left out
        (3, 5, False, True, False),
        (3, 5, True, False, False),
        (3, 4, False, False, False),
        (3, 12, False, False, True),
        (8, 9, False, False, False),
    ],
)
def test_a_partial_pass_takes_pieces_that_reach_into_it(
    start: int, stop: int, complete: bool, urgent: bool, owned: bool
) -> None:
    """A piece that begins before the region is of it if no region takes the window before."""
    file = File(20, frozenset(range(4, 8)), [])
    file_pass = Pass(INODE, complete=complete, urgent=urgent)
    region = Region(file_pass, file.staged, WINDOW, 2 * WINDOW)
    assert region.owns(Piece(start * UNIT, stop * UNIT, Role.TENSOR)) is owned


@given(files(), st.integers(0, 9), st.integers(1, 4), st.integers(0, 6))
def test_data_around_a_region(file: File, first: int, count: int, margin: int) -> None:
    """It is every unit in the region and the margin that is staged, or mapped and not hidden."""
    low, high = first * 4, (first + count) * 4
    region = Region(Pass(INODE, complete=True), file.staged, low * UNIT, high * UNIT)
    data = data_around(region, file.maps, margin * UNIT)
    ranges = file.staged.ranges()
    mapped = RangeSet((each.start, each.stop) for each in file.extents)
    visible_to = file.staged.map_visible_to
    expected = RangeSet()
    for unit in range(max(0, low - margin), min(high + margin, file.staged.size // UNIT)):
        at = unit * UNIT, (unit + 1) * UNIT
        is_hidden = visible_to is not None and at[0] >= visible_to
        if any(ranges.within(*at)) or (any(mapped.within(*at)) and not is_hidden):
            expected.add(*at)
    assert data == expected


def test_a_whole_file_hides_all_of_the_map() -> None:
    """Beside a staging file of the whole file, only staged bytes are data."""
    extents = [Extent(0, ChunkId(1), 0, 8 * UNIT)]
    file = File(8, frozenset({1}), extents)
    region = Region(Pass(INODE, complete=True), file.staged, 0, 2 * WINDOW)
    assert data_around(region, file.maps, 0) == RangeSet([(0, 8 * UNIT)])
    file.staged.whole = cast("object", SimpleNamespace())  # type: ignore[assignment]
    assert data_around(region, file.maps, 0) == RangeSet([(UNIT, 2 * UNIT)])


def test_windows_of_a_whole_file_stay_to_the_end_of_the_pass() -> None:
    """No window of a staging file of the whole file is dropped with a region."""
    file = File(8, frozenset(range(8)), [])
    stamps = {number: window.stamp for number, window in file.staged.windows.items()}
    file_pass = Pass(INODE, complete=True, stamps=stamps)
    region = Region(file_pass, file.staged, 0, 2 * WINDOW)
    assert [window.number for window in region.mapped_windows(file.staged)] == [0, 1]
    whole = file.staged.windows[1]
    whole.generation |= WHOLE
    file_pass.stamps[1] = whole.stamp
    assert [window.number for window in region.mapped_windows(file.staged)] == [0]
    assert file_pass.has_taken(file.staged)


# -- changes beside a pass, in a store with small windows


@pytest.fixture
def small(windows: None, opened: Store) -> tuple[Store, InodeNumber, Pass, Region]:
    """A pass over a file of four windows, with the work on its first region done."""
    inode = new_file(opened, b"f", noise(4 * SMALL))
    file_pass, region = begin_region(opened, inode)
    run(opened, region)
    return opened, inode, file_pass, region


Small = tuple[Store, InodeNumber, Pass, Region]


def covered(small: Small) -> list[int]:
    """Return the windows that the pass covers."""
    store, inode, file_pass, _ = small
    windows = staged_of(store, inode).windows
    return [number for number in sorted(windows) if file_pass.covers(windows[number])]


def stale(small: Small, *bounds: tuple[int, int]) -> list[bool]:
    """Return whether the file has changed in each range."""
    store, inode, file_pass, _ = small
    staged = store.staging.find(inode)
    return [
        file_pass.changed_under(Extent(start, ChunkId(1), 0, stop - start), staged)
        for start, stop in bounds
    ]


def test_nothing_has_changed_at_first(small: Small) -> None:
    """All windows are covered, no extent is stale, and the whole file would be taken."""
    store, inode, file_pass, _ = small
    assert covered(small) == [0, 1, 2, 3]
    assert stale(small, (0, 4 * SMALL)) == [False]
    assert file_pass.has_taken(staged_of(store, inode))


def test_a_write_changes_its_window(small: Small) -> None:
    """Extents that touch the window are stale, with a byte of it at either end, and no others."""
    store, inode, file_pass, _ = small
    store.writes.write(inode, SMALL + 5, b"x")
    assert covered(small) == [0, 2, 3]
    bounds = [(0, SMALL), (0, SMALL + 1), (2 * SMALL - 1, 2 * SMALL), (2 * SMALL, 3 * SMALL)]
    assert stale(small, *bounds) == [False, True, True, False]
    assert not file_pass.has_taken(staged_of(store, inode))


@pytest.mark.parametrize("number", [2, 4])
def test_a_write_under_way_changes_its_window(small: Small, number: int) -> None:
    """From its beginning on a write counts as one, and also in a window that is new."""
    store, inode, file_pass, _ = small
    store.writes.truncate(inode, 5 * SMALL)
    parts = store.writes.begin(inode, number * SMALL, memoryview(b"x"))
    in_windows = [(each * SMALL, (each + 1) * SMALL) for each in range(5)]
    changed = [each == number for each in range(5)]
    assert stale(small, *in_windows) == changed
    assert number not in covered(small)
    # A pass that begins during the write has its stamp, and may not take the window either.
    file_pass.stamps[number] = staged_of(store, inode).windows[number].stamp
    assert stale(small, *in_windows) == changed
    assert number not in covered(small)
    write_part(parts[0])
    store.writes.end(inode, parts, 1)


def test_a_new_window_lies_above_the_map(small: Small) -> None:
    """An extent below a window that began during the pass may be mapped; the window stays."""
    store, inode, _, _ = small
    store.writes.write(inode, 4 * SMALL + 1, b"new")
    assert covered(small) == [0, 1, 2, 3]
    assert stale(small, (4 * SMALL, 5 * SMALL)) == [False]


@pytest.mark.parametrize("size", [3 * SMALL, 3 * SMALL - 1, 1, 0])
def test_a_cut_changes_all_behind_it(small: Small, size: int) -> None:
    """An extent that reaches behind the cut is stale, also when the file is long again."""
    store, inode, _, _ = small
    store.writes.truncate(inode, size)
    store.writes.truncate(inode, 4 * SMALL)
    assert stale(small, (size, size + 1), (3 * SMALL, 4 * SMALL)) == [True, True]
    before = size // SMALL * SMALL
    if before:
        assert stale(small, (0, before), (before - 1, before)) == [False, False]
    assert covered(small) == list(range(-(-size // SMALL)))[: size // SMALL]


def test_an_extent_up_to_the_cut_is_not_stale(windows: None, opened: Store) -> None:
    """Of a file in chunks that is cut, extents end at the cut at most."""
    inode = stored_file(opened, b"f", noise(2 * SMALL))
    opened.writes.truncate(inode, SMALL)
    file_pass = Pass(inode, complete=True)
    staged = staged_of(opened, inode)
    found = [
        file_pass.changed_under(Extent(0, ChunkId(1), 0, length), staged)
        for length in (SMALL - 1, SMALL, SMALL + 1)
    ]
    assert found == [False, False, True]


def test_a_window_that_is_gone_has_changed(small: Small) -> None:
    """Without its window, and without any staged state, an extent of the pass is stale."""
    store, inode, file_pass, _ = small
    assert not file_pass.changed_under(Extent(9 * SMALL, ChunkId(1), 0, 1), None)
    assert file_pass.changed_under(Extent(0, ChunkId(1), 0, 1), None)
    staged = staged_of(store, inode)
    copy = staged.copy()
    del copy.windows[1]
    assert file_pass.changed_under(Extent(SMALL, ChunkId(1), 0, 1), copy)
    assert not file_pass.changed_under(Extent(0, ChunkId(1), 0, 1), copy)


def test_a_skipped_window_is_not_covered(small: Small) -> None:
    """A window with a piece that was not applied stays, and its file is not taken as a whole."""
    store, inode, file_pass, region = small
    file_pass.skipped.add(1)
    assert covered(small) == [0, 2, 3]
    assert not file_pass.has_taken(staged_of(store, inode))
    mapped = region.mapped_windows(staged_of(store, inode))
    assert [window.number for window in mapped] == [0]


def test_windows_of_a_region_are_mapped_with_it(small: Small) -> None:
    """Of the windows that a pass covers, those of the region are dropped when it is applied."""
    store, inode, file_pass, region = small
    assert (region.start, region.stop) == (0, 2 * SMALL)
    mapped = region.mapped_windows(staged_of(store, inode))
    assert [window.number for window in mapped] == [0, 1]
    apply(store, region)
    assert sorted(staged_of(store, inode).windows) == [2, 3]
    following = Applier(store).next_region(file_pass)
    assert following is not None
    assert (following.start, following.stop) == (2 * SMALL, 4 * SMALL)


@pytest.mark.parametrize(
    ("complete", "urgent", "takes_all"),
    [(False, False, False), (True, False, True), (False, True, True), (True, True, True)],
)
def test_which_passes_take_all(complete: bool, urgent: bool, takes_all: bool) -> None:
    """A pass takes more than whole windows if the file is complete, or room is short."""
    assert Pass(INODE, complete=complete, urgent=urgent).takes_all is takes_all
