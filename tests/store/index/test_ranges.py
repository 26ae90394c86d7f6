"""Sets of ranges, compared with sets of numbers."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.store.index.ranges import RangeSet

OFFSETS = st.integers(0, 20)
CALLS = st.lists(st.tuples(st.sampled_from(["add", "remove"]), OFFSETS, OFFSETS), max_size=20)


def built(calls: list[tuple[str, int, int]]) -> tuple[RangeSet, set[int]]:
    ranges, numbers = RangeSet(), set[int]()
    for call, start, stop in calls:
        if call == "add":
            ranges.add(start, stop)
            numbers.update(range(start, stop))
        else:
            ranges.remove(start, stop)
            numbers.difference_update(range(start, stop))
    return ranges, numbers


def numbers_of(ranges: list[tuple[int, int]]) -> list[int]:
    return [number for start, stop in ranges for number in range(start, stop)]


@given(calls=CALLS)
def test_a_range_set_is_a_set(calls: list[tuple[str, int, int]]) -> None:
    """Adding and removing ranges gives the numbers of a set, in order."""
    ranges, numbers = built(calls)
    assert numbers_of(list(ranges)) == sorted(numbers)
    assert ranges.size == len(numbers)
    assert ranges.stop == max(numbers, default=-1) + 1
    assert bool(ranges) == bool(numbers)


@given(calls=CALLS)
def test_neighbours_are_one_range(calls: list[tuple[str, int, int]]) -> None:
    """Ranges do not touch, so equal sets have equal ranges."""
    ranges, numbers = built(calls)
    flat = [bound for pair in ranges for bound in pair]
    assert all(low < high for low, high in pairwise(flat))
    twin = RangeSet((number, number + 1) for number in sorted(numbers, reverse=True))
    assert ranges == twin
    with pytest.raises(TypeError, match="unhashable"):
        hash(ranges)
    assert len(ranges) == len(list(ranges))


@given(calls=CALLS, start=OFFSETS, stop=OFFSETS)
def test_parts_are_cut_to_the_bounds(
    calls: list[tuple[str, int, int]], start: int, stop: int
) -> None:
    """`within` yields the parts of the set inside the bounds."""
    ranges, numbers = built(calls)
    inside = sorted(numbers & set(range(start, stop)))
    assert numbers_of(list(ranges.within(start, stop))) == inside


@given(calls=CALLS)
def test_a_copy_is_another_set(calls: list[tuple[str, int, int]]) -> None:
    """A change of a copy does not change the original."""
    ranges, numbers = built(calls)
    twin = ranges.copy()
    assert twin == ranges
    twin.add(100, 101)
    twin.remove(0, 10)
    assert numbers_of(list(ranges)) == sorted(numbers)


@given(calls=CALLS, others=CALLS)
def test_two_sets(calls: list[tuple[str, int, int]], others: list[tuple[str, int, int]]) -> None:
    """The offsets that both sets have, that one has, and that one alone has, are those of sets."""
    ranges, numbers = built(calls)
    other, other_numbers = built(others)
    assert numbers_of(list(ranges.common(other))) == sorted(numbers & other_numbers)
    assert numbers_of(list(ranges.without(other))) == sorted(numbers - other_numbers)
    assert numbers_of(list(ranges.shifted(5))) == [number + 5 for number in sorted(numbers)]
    ranges.update(other)
    assert numbers_of(list(ranges)) == sorted(numbers | other_numbers)


def test_other_things_are_no_ranges() -> None:
    """A range set equals only range sets."""
    assert RangeSet([(1, 2)]) != [(1, 2)]
