"""The memory budget of a scan."""

import pytest

from modelfs.formats.budget import Borrowed, MemoryBudget
from modelfs.formats.layout import MalformedModel


def test_a_budget_ends() -> None:
    """A request beyond the budget is refused, and so is each one after it."""
    budget = MemoryBudget()
    budget.reserve(MemoryBudget.SIZE)
    with pytest.raises(MalformedModel):
        budget.reserve(1)


def test_what_is_given_back_is_left_again() -> None:
    """Memory that was given back can be reserved again."""
    budget = MemoryBudget()
    budget.reserve(MemoryBudget.SIZE)
    budget.give_back(10)
    budget.reserve(10)


def test_borrowed_memory_is_given_back() -> None:
    """The end of a block gives back all of it, less the part given back before."""
    budget = MemoryBudget()
    with Borrowed(budget) as work:
        work.reserve(MemoryBudget.SIZE)
        work.give_back(10)
        work.reserve(5)
    budget.reserve(MemoryBudget.SIZE)
    with pytest.raises(MalformedModel):
        budget.reserve(1)


def test_borrowed_memory_counts() -> None:
    """A part of a budget has no more than the budget has, and gives all of it back."""
    budget = MemoryBudget()
    budget.reserve(MemoryBudget.SIZE - 1)
    with pytest.raises(MalformedModel), Borrowed(budget) as work:
        work.reserve(2)
    budget.reserve(1)
