"""Where chunks ought to lie: arithmetic, without a store."""

from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.jobs.defrag import order as order_module
from modelfs.jobs.defrag.order import GAP_MAX, RUN_LONG, DefragPlan, Places, Reads, plan, survey

SIZES = st.sampled_from([1, 1000, GAP_MAX + 1, RUN_LONG // 2, RUN_LONG])
GAPS = st.sampled_from([0, 1, GAP_MAX, GAP_MAX + 1, Places.PACK_STEP])


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Places, Reads]:
    """Any chunks in any order in packs, and files that use any of them in any order."""
    count = draw(st.integers(0, 12))
    sizes = draw(st.lists(SIZES, min_size=count, max_size=count))
    address = [0] * count
    at = 0
    for row in draw(st.permutations(range(count))):
        address[row] = at = at + draw(GAPS)
        at += sizes[row]
    rows = st.integers(0, count - 1) if count else st.nothing()
    files = draw(st.lists(st.lists(rows, unique=True, max_size=count), max_size=5))
    numbers = np.cumsum(draw(st.lists(st.integers(1, 9), min_size=count, max_size=count)))
    return Places(numbers.astype(np.int64), np.array(address, np.int64), np.array(sizes)), Reads(
        np.arange(2, 2 + len(files)),
        np.repeat(np.arange(len(files), dtype=np.int32), [len(file) for file in files]),
        np.array([row for file in files for row in file], np.int32),
    )


def files_of(reads: Reads) -> list[list[int]]:
    return [reads.place[reads.file == file].tolist() for file in range(len(reads.inode))]


def users(reads: Reads, row: int) -> frozenset[int]:
    return frozenset(reads.file[reads.place == row].tolist())


@given(layouts())
def test_each_chunk_has_one_place(layout: tuple[Places, Reads]) -> None:
    """Every chunk is in the order, once, whether a file uses it or not."""
    places, reads = layout
    assert sorted(survey(places, reads).order) == list(range(len(places.chunk)))


@given(layouts())
def test_chunks_of_the_same_files_lie_together(layout: tuple[Places, Reads]) -> None:
    """Groups follow each other by first use, in the largest file first; so do chunks in them."""
    places, reads = layout
    order = survey(places, reads).order.tolist()
    groups = [(key, list(rows)) for key, rows in groupby(order, lambda row: users(reads, row))]
    assert len({key for key, _ in groups}) == len(groups)
    by_size = sorted(files_of(reads), key=lambda file: -places.stored[file].sum())
    as_read = [row for file in by_size for row in file]
    first = {row: at for at, row in reversed(list(enumerate(as_read)))}
    used = [[first[row] for row in rows] for key, rows in groups if key]
    assert all(rows == sorted(rows) for rows in used)
    assert [rows[0] for rows in used] == sorted(rows[0] for rows in used)
    assert all(key for key, _ in groups[:-1]), "what no file uses comes last"


def runs_of(file: list[int], address: list[int], stored: list[int]) -> int:
    """Count the chunks of a file that no other was read just before, in its pack."""
    last: tuple[int, int] | None = None
    runs = 0
    for at, row in sorted((address[row], row) for row in file):
        read = file.index(row)
        follows = last is not None and last[0] <= at <= last[0] + GAP_MAX and last[1] < read
        runs += not follows
        last = at + stored[row], read
    return runs


@given(layouts(), st.sampled_from([1, order_module.BLOCK_ROWS]))
def test_runs_are_counted(layout: tuple[Places, Reads], block: int) -> None:
    """A run goes on as long as it is read forwards, with at most a small gap."""
    places, reads = layout
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "BLOCK_ROWS", block)
        result = survey(places, reads)
    address, stored = places.address.tolist(), places.stored.tolist()
    assert result.runs.tolist() == [runs_of(file, address, stored) for file in files_of(reads)]
    ideal = dict(zip(result.order.tolist(), np.cumsum(places.stored[result.order]), strict=True))
    ends = [int(ideal[row]) - stored[row] for row in range(len(stored))]
    assert result.ideal.tolist() == [runs_of(file, ends, stored) for file in files_of(reads)]


@given(layouts())
def test_what_was_copied_is_not_copied_again(layout: tuple[Places, Reads]) -> None:
    """Where the plan was followed, the same chunks are fine, and none was in it twice."""
    places, _ = layout
    chosen = np.flatnonzero(order_module.in_short_runs(places.address, places.stored))
    moved = places.address.copy()
    end = 1 << 60
    moved[chosen] = end + np.cumsum(places.stored[chosen]) - places.stored[chosen]
    assert not order_module.in_short_runs(moved, places.stored).any()


def scattered(count: int, size: int) -> tuple[Places, Reads]:
    """Two files whose chunks take turns in a pack."""
    rows = np.arange(2 * count)
    reads = np.concatenate([rows[::2], rows[1::2]]).astype(np.int32)
    files = np.repeat(np.arange(2, dtype=np.int32), count)
    places = Places(rows + 1, rows * size, np.full(2 * count, size))
    return places, Reads(np.array([5, 6]), files, reads)


def test_scattered_files_are_brought_together() -> None:
    """All their chunks are copied, those of the first file first."""
    result = survey(*scattered(20, GAP_MAX + 1))
    assert result.runs.tolist() == [20, 20]
    assert result.ideal.tolist() == [1, 1]
    assert plan(result).chunk.tolist() == [*range(1, 41, 2), *range(2, 41, 2)]


def test_few_runs_are_left_alone() -> None:
    """A file that would not gain much is not worth the copying."""
    assert not plan(survey(*scattered(order_module.RUNS_MORE + 1, GAP_MAX + 1))).bytes
    assert plan(survey(*scattered(order_module.RUNS_MORE + 2, GAP_MAX + 1))).bytes


def test_long_runs_are_left_alone() -> None:
    """A disk reads them as fast as a longer one, however many there are."""
    assert not plan(survey(*scattered(50, RUN_LONG))).bytes
    assert plan(survey(*scattered(50, RUN_LONG - 1))).bytes


def test_an_empty_store_needs_nothing() -> None:
    """Nothing is planned for no chunks and no files."""
    none = np.zeros(0, np.int64)
    some = none.astype(np.int32)
    assert not plan(survey(Places(none, none, none), Reads(none, some, some))).bytes


@given(st.lists(st.integers(1, 50), max_size=20))
def test_portions_are_bounded(sizes: list[int]) -> None:
    """They are all of it, in its order; none is longer than allowed, but for one long chunk."""
    whole = DefragPlan(np.arange(len(sizes)), np.array(sizes, np.int64))
    portions = list(whole.portions(most=40))
    assert [number for part in portions for number in part.chunk] == list(range(len(sizes)))
    assert all(part.bytes <= 40 or len(part.chunk) == 1 for part in portions)
    assert all(one.bytes + two.stored[0] > 40 for one, two in pairwise(portions))
