"""Long work is cut into slices, with a pause after each."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.errors import StoreFull
from modelfs.jobs.steps import (
    Hold,
    Job,
    Pause,
    Right,
    appending,
    exclusive,
    pausing,
    slices,
    unless_pinned,
)


def counted(done: list[int], count: int) -> Iterator[None]:
    """Do `count` slices, and yield after each but the last."""
    for number in range(count):
        done.append(number)
        if number < count - 1:
            yield


@pytest.mark.parametrize("count", [0, 1, 4])
def test_all_slices_are_done(count: int) -> None:
    """There is a pause after each slice that yields, and all slices are done."""
    done: list[int] = []
    assert list(pausing(counted(done, count))) == [Pause()] * max(0, count - 1)
    assert done == [*range(count)]


def test_slices_are_done_one_by_one() -> None:
    """Nothing is done before the job is run, and between two pauses there is one slice."""
    done: list[int] = []
    job = pausing(counted(done, 3))
    assert done == []
    for number in range(2):
        next(job)
        assert done == [*range(number + 1)]


def test_any_values_are_paused_after() -> None:
    """The yielded values have no effect: each is followed by a pause."""
    assert list(pausing([0, None, "x"])) == [Pause()] * 3


def test_an_error_at_a_pause_ends_it() -> None:
    """An exception at a pause, as of a commit, ends the work, and no further slice is done."""
    done: list[int] = []
    job = pausing(counted(done, 3))
    next(job)
    with pytest.raises(StoreFull):
        job.throw(StoreFull("full"))
    assert done == [0]
    assert list(job) == []


@pytest.mark.parametrize(
    ("hold", "right"),
    [
        (appending, Right.APPEND),
        (exclusive, Right.EXCLUSIVE),
        (unless_pinned, Right.UNLESS_PINNED),
    ],
)
def test_a_job_with_a_right_is_one_step(
    hold: Callable[[Job[None]], Job[object]], right: Right
) -> None:
    """A job that needs a right is handed to the driver whole, and its result is passed on."""
    part = pausing(counted([], 3))
    job = hold(part)
    assert next(job) == Hold(right, part)
    with pytest.raises(StopIteration) as end:
        job.send("result")
    assert end.value.value == "result"


@given(st.lists(st.integers()), st.integers(1, 10))
def test_slices_are_all_in_order(items: list[int], size: int) -> None:
    """The slices hold all items in order; all but the last have the given size."""
    parts = list(slices(items, size))
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])
    assert all(0 < len(part) <= size for part in parts)
