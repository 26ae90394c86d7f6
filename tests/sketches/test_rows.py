"""Rows with the smallest hashes: those that parts and wholes have in common."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfs.sketches.rows import KEPT, ROW_MAX, VECTOR_MAX, Rows, row_size
from tests.support.stores import noise

ROW = 256


def smallest(content: bytes, *shape: int, width: int = 4, step: int = 1 << 20) -> dict[int, int]:
    """Return the offsets of the kept rows, by key."""
    rows = Rows(shape, width, len(content))
    for at in range(0, len(content), step):
        rows.feed(memoryview(content)[at : at + step])
    return dict(rows.smallest())


@settings(max_examples=25)
@given(before=st.integers(0, 200), count=st.integers(40, 200), after=st.integers(0, 200))
def test_a_part_is_found_in_the_whole(before: int, count: int, after: int) -> None:
    """Rows of a tensor at any place in another one are found, with the same shift for all."""
    part = noise(count * ROW)
    whole = noise(before * ROW, 2) + part + noise(after * ROW, 3)
    part_rows = smallest(part, count, ROW // 4)
    whole_rows = smallest(whole, len(whole) // ROW, ROW // 4)
    shifts = {whole_rows[key] - part_rows[key] for key in part_rows.keys() & whole_rows.keys()}
    assert shifts == {before * ROW}


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_vectors_have_windows(parts: int) -> None:
    """Joined vectors are found in their concatenation."""
    vectors = [noise(4 * 385, seed) for seed in range(parts)]
    joined = smallest(b"".join(vectors), parts * 385)
    shifts = [
        {joined[key] - offset for key, offset in smallest(vector, 385).items() if key in joined}
        for vector in vectors
    ]
    assert shifts == [{number * 4 * 385} for number in range(parts)]


@pytest.mark.parametrize("step", [1, 100, ROW, 1000, 4096])
def test_cuts_do_not_matter(step: int) -> None:
    """Rows that are cut between two calls of `feed` are joined."""
    content = noise(100 * ROW)
    assert smallest(content, 100, ROW // 4, step=step) == smallest(content, 100, ROW // 4)


def test_rows_are_what_they_are_said_to_be() -> None:
    """Offsets are those of rows, and equal keys mean equal rows."""
    content = noise(1000 * ROW)
    rows = smallest(content, 1000, ROW // 4, step=10_000)
    assert len(rows) == KEPT
    assert all(offset % ROW == 0 for offset in rows.values())
    assert len({content[offset : offset + ROW] for offset in rows.values()}) == KEPT


def test_rows_that_repeat_count_once() -> None:
    """A row that occurs many times is kept once, beside others."""
    often = noise(ROW, 2)
    content = often * 500 + noise(30 * ROW) + often * 500
    assert len(smallest(content, 1030, ROW // 4)) == KEPT
    assert list(smallest(often * 1000, 1000, ROW // 4, step=5000).values()) == [0]


@pytest.mark.parametrize("row", [64, 72, 1000])
def test_constant_rows_do_not_count(row: int) -> None:
    """Constant rows, such as padding, are not kept."""
    assert smallest(np.full(row * 10, 3.7, np.float32).tobytes(), 40, row // 4) == {}


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        ((1000, 16), 64),
        ((1000, 15), 0),  # too short: it has windows
        ((100, 10, 15), 600),
        ((64, 64, 3, 3), 64 * 9 * 4),
        ((1, 384), 0),
        ((384,), 0),
        ((), 0),
        ((2, ROW_MAX // 4), ROW_MAX),
        ((2, ROW_MAX // 4 + 1), 0),
        ((0, 384), 0),
        ((7, 0), 0),
    ],
)
def test_what_a_row_is(shape: tuple[int, ...], row: int) -> None:
    """A row has the last axes of the shape, and is neither short nor huge."""
    assert row_size(shape, 4, 4 * int(np.prod(shape))) == row


def test_long_vectors_are_passed_over() -> None:
    """No row is kept of a vector that is longer than any model's."""
    assert smallest(noise(VECTOR_MAX + 4), VECTOR_MAX // 4 + 1) == {}
    assert len(smallest(noise(VECTOR_MAX), VECTOR_MAX // 4)) == KEPT
