"""Loans of the reserve to writers, whose bytes may be copies."""

from dataclasses import dataclass
from typing import cast

import pytest

from modelfs.errors import StoreFull
from modelfs.fs.background.loans import LOAN_LEAST, LOAN_MAX, LOAN_MIN, Loans
from modelfs.store.disk.space import Space

MB = 1 << 20


@dataclass
class FakeSpace:
    """Stands for the space of a store that has only a part of its reserve left."""

    working_bytes: int
    staged: int = 0
    slack: int = 0

    @property
    def loan_bytes(self) -> int:
        return self.working_bytes - self.slack

    def borrow(self, size: int, staged_max: int) -> None:
        if self.staged + size > staged_max:
            raise StoreFull("full")
        self.staged += size

    def ingest(self, new: int) -> None:
        """Make chunks of all staged bytes, of which so many are no copies."""
        self.working_bytes -= new
        self.staged = 0


@pytest.fixture
def space() -> FakeSpace:
    return FakeSpace(working_bytes=48 * MB)


@pytest.fixture
def loans(space: FakeSpace) -> Loans:
    return Loans(cast("Space", space), lambda: space.staged)


def borrowed(loans: Loans) -> int:
    """Borrow all bytes of the open loan, and return their number."""
    size = 0
    while loans.borrow(MB // 4):
        size += MB // 4
    return size


def test_nothing_is_lent_without_a_loan(loans: Loans) -> None:
    """Writers get no byte of the reserve before a loan is opened, nor after its end."""
    assert not loans.borrow(1)
    assert loans.lend()
    assert loans.borrow(1)
    loans.close()
    assert not loans.borrow(1)


def test_a_loan_is_a_part_of_the_room(loans: Loans, space: FakeSpace) -> None:
    """A loan has a third of the room that no staged bytes need, so some is left for the next."""
    space.staged = 12 * MB
    assert loans.lend()
    assert borrowed(loans) == 12 * MB


def test_the_example(loans: Loans, space: FakeSpace) -> None:
    """The slack is not lent; a loan for copies leaves the room, and one for noise takes it."""
    space.working_bytes, space.slack = 22 * MB, 4 * MB
    assert loans.lend()
    assert borrowed(loans) == 6 * MB
    space.ingest(0)
    assert loans.close()
    assert loans.lend()
    assert borrowed(loans) == 6 * MB
    space.ingest(6 * MB)
    assert not loans.close()
    assert space.working_bytes == 16 * MB


def test_a_small_loan_is_not_opened(loans: Loans, space: FakeSpace) -> None:
    """A part of the room that is too small for a program to make headway is not lent."""
    space.working_bytes = 3 * LOAN_LEAST - 3
    assert not loans.lend()
    assert not loans.borrow(1)


def test_copies_are_lent_to_again(loans: Loans, space: FakeSpace) -> None:
    """After a loan for copies of stored bytes there is another, for any length of copies."""
    for _ in range(10):
        assert loans.lend()
        assert borrowed(loans) == 16 * MB
        space.ingest(new=0)
        assert loans.close()


def test_new_content_ends_lending(loans: Loans, space: FakeSpace) -> None:
    """A loan for new content is not worth another one, and the next loan is smaller."""
    space.working_bytes = 900 * MB
    assert loans.lend()
    assert borrowed(loans) == LOAN_MAX
    space.ingest(new=LOAN_MAX)
    assert not loans.close()
    assert loans.lend()
    assert borrowed(loans) == LOAN_MAX // 8
    space.ingest(new=LOAN_MAX // 8)
    assert not loans.close()
    assert loans.lend()
    assert borrowed(loans) == LOAN_MIN


def test_room_makes_loans_large_again(loans: Loans, space: FakeSpace) -> None:
    """A store that had room meanwhile lends as much as at first, and not before it is asked."""
    space.working_bytes = 900 * MB
    loans.lend()
    borrowed(loans)
    space.ingest(new=LOAN_MAX)
    loans.close()
    loans.forget()
    assert not loans.borrow(1)
    assert loans.lend()
    assert borrowed(loans) == LOAN_MAX
