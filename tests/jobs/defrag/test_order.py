"""The target order of chunks: arithmetic, without a store."""

from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.jobs.defrag import order as order_module
from modelfs.jobs.defrag.order import (
    GAP_MAX,
    RUN_LONG,
    DefragPlan,
    PackedChunks,
    ReadSequence,
    measure,
    plan,
)

SIZES = st.sampled_from([1, 1000, GAP_MAX + 1, RUN_LONG // 2, RUN_LONG])
GAPS = st.sampled_from([0, 1, GAP_MAX, GAP_MAX + 1, PackedChunks.PACK_STEP])


@st.composite
def layouts(draw: st.DrawFn) -> tuple[PackedChunks, ReadSequence]:
    """Chunks in any order in packs, and files that use any of them in any order."""
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
    chunks = PackedChunks(numbers.astype(np.int64), np.array(address, np.int64), np.array(sizes))
    return chunks, ReadSequence(
        np.arange(2, 2 + len(files)),
        np.repeat(np.arange(len(files), dtype=np.int32), [len(file) for file in files]),
        np.array([row for file in files for row in file], np.int32),
    )


def files_of(reads: ReadSequence) -> list[list[int]]:
    return [reads.chunk[reads.file == file].tolist() for file in range(len(reads.inodes))]


def users(reads: ReadSequence, row: int) -> frozenset[int]:
    return frozenset(reads.file[reads.chunk == row].tolist())


@given(layouts())
def test_each_chunk_is_in_the_order_once(layout: tuple[PackedChunks, ReadSequence]) -> None:
    """Every chunk is in the target order once, whether a file uses it or not."""
    chunks, reads = layout
    assert sorted(measure(chunks, reads).order) == list(range(len(chunks.number)))


@given(layouts())
def test_chunks_of_the_same_files_lie_together(layout: tuple[PackedChunks, ReadSequence]) -> None:
    """Groups, and the chunks in each, are sorted by first read, with the largest files first."""
    chunks, reads = layout
    order = measure(chunks, reads).order.tolist()
    groups = [(key, list(rows)) for key, rows in groupby(order, lambda row: users(reads, row))]
    assert len({key for key, _ in groups}) == len(groups)
    by_size = sorted(files_of(reads), key=lambda file: -chunks.stored[file].sum())
    as_read = [row for file in by_size for row in file]
    first = {row: at for at, row in reversed(list(enumerate(as_read)))}
    used = [[first[row] for row in rows] for key, rows in groups if key]
    assert all(rows == sorted(rows) for rows in used)
    assert [rows[0] for rows in used] == sorted(rows[0] for rows in used)
    assert all(key for key, _ in groups[:-1]), "unused chunks come last"


def runs_of(file: list[int], address: list[int], stored: list[int]) -> int:
    """Count the chunks of a file that do not follow another one of it in their pack."""
    last: tuple[int, int] | None = None
    runs = 0
    for at, row in sorted((address[row], row) for row in file):
        read = file.index(row)
        follows = last is not None and last[0] <= at <= last[0] + GAP_MAX and last[1] < read
        runs += not follows
        last = at + stored[row], read
    return runs


@given(layouts(), st.sampled_from([1, order_module.BLOCK_ROWS]))
def test_runs_are_counted(layout: tuple[PackedChunks, ReadSequence], block: int) -> None:
    """A run is read forwards, with gaps of at most `GAP_MAX`."""
    chunks, reads = layout
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "BLOCK_ROWS", block)
        result = measure(chunks, reads)
    address, stored = chunks.address.tolist(), chunks.stored.tolist()
    assert result.runs.tolist() == [runs_of(file, address, stored) for file in files_of(reads)]
    ideal = dict(zip(result.order.tolist(), np.cumsum(chunks.stored[result.order]), strict=True))
    ends = [int(ideal[row]) - stored[row] for row in range(len(stored))]
    assert result.ideal_runs.tolist() == [runs_of(file, ends, stored) for file in files_of(reads)]


@given(layouts())
def test_copied_chunks_are_not_copied_again(layout: tuple[PackedChunks, ReadSequence]) -> None:
    """Chunks copied by a plan are not in the next one."""
    chunks, _ = layout
    chosen = np.flatnonzero(order_module.in_short_runs(chunks.address, chunks.stored))
    moved = chunks.address.copy()
    end = 1 << 60
    moved[chosen] = end + np.cumsum(chunks.stored[chosen]) - chunks.stored[chosen]
    assert not order_module.in_short_runs(moved, chunks.stored).any()


def scattered(count: int, size: int) -> tuple[PackedChunks, ReadSequence]:
    """Return two files whose chunks alternate in a pack."""
    rows = np.arange(2 * count)
    reads = np.concatenate([rows[::2], rows[1::2]]).astype(np.int32)
    files = np.repeat(np.arange(2, dtype=np.int32), count)
    chunks = PackedChunks(rows + 1, rows * size, np.full(2 * count, size))
    return chunks, ReadSequence(np.array([5, 6]), files, reads)


def test_scattered_files_are_brought_together() -> None:
    """All chunks of two scattered files are copied, those of the first file first."""
    result = measure(*scattered(20, GAP_MAX + 1))
    assert result.runs.tolist() == [20, 20]
    assert result.ideal_runs.tolist() == [1, 1]
    assert plan(result).chunk.tolist() == [*range(1, 41, 2), *range(2, 41, 2)]


def test_few_runs_are_left_alone() -> None:
    """A file with up to `RUNS_MORE` runs above the ideal is not copied."""
    assert not plan(measure(*scattered(order_module.RUNS_MORE + 1, GAP_MAX + 1))).bytes
    assert plan(measure(*scattered(order_module.RUNS_MORE + 2, GAP_MAX + 1))).bytes


def test_long_runs_are_left_alone() -> None:
    """Runs of `RUN_LONG` bytes are not copied, however many there are."""
    assert not plan(measure(*scattered(50, RUN_LONG))).bytes
    assert plan(measure(*scattered(50, RUN_LONG - 1))).bytes


def test_an_empty_store_has_an_empty_plan() -> None:
    """The plan of a store without chunks and files is empty."""
    none = np.zeros(0, np.int64)
    some = none.astype(np.int32)
    assert not plan(measure(PackedChunks(none, none, none), ReadSequence(none, some, some))).bytes


@given(st.lists(st.integers(1, 50), max_size=20))
def test_portions_are_bounded(sizes: list[int]) -> None:
    """Portions hold the whole plan in order; one above the limit holds a single chunk."""
    whole = DefragPlan(np.arange(len(sizes)), np.array(sizes, np.int64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "PORTION_BYTES", 40)
        portions = list(whole.portions())
    assert [number for part in portions for number in part.chunk] == list(range(len(sizes)))
    assert all(part.bytes <= 40 or len(part.chunk) == 1 for part in portions)
    assert all(one.bytes + two.stored[0] > 40 for one, two in pairwise(portions))
