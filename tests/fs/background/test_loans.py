"""Loans of the reserve to writers, whose bytes may be copies."""

from dataclasses import dataclass, field
from itertools import count
from typing import cast

import pytest

from modelfs.errors import CorruptIndex, StoreFull
from modelfs.fs.background.borrowers import Verdict
from modelfs.fs.background.loans import LOAN_LEAST, LOAN_MAX, PROBE, Loans
from modelfs.store.disk.space import Space
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.tables import ChunkId, InodeNumber

MB = 1 << 20
COPY, NOISE, OTHER, MIXED, PIECES = map(InodeNumber, range(2, 7))
# Each is behind all bytes that a file has borrowed.
PLACES = count(MB, 1 << 30)


@dataclass
class FakeStore:
    """Stands for a store that has only a part of its reserve left, and for its files."""

    loan_bytes: int
    for_copies: int = 0
    staged_bytes: int = 0
    copied: dict[InodeNumber, float] = field(default_factory=lambda: {COPY: 1, MIXED: 0.5})
    new: dict[InodeNumber, RangeSet] = field(default_factory=dict)
    pieces: set[InodeNumber] = field(default_factory=lambda: {PIECES})
    empty: set[InodeNumber] = field(default_factory=set)
    uningested: RangeSet = field(default_factory=RangeSet)  # bytes of any file
    chunk_size: int = MB

    @property
    def probe_bytes(self) -> int:
        return self.loan_bytes - self.for_copies

    def borrow(self, size: int, staged_max: int) -> None:
        if self.staged_bytes + size > staged_max:
            raise StoreFull("full")
        self.staged_bytes += size

    def next_chunk(self) -> ChunkId:
        return ChunkId(1)

    def is_empty(self, inode: InodeNumber) -> bool:
        return inode in self.empty

    def staged(self, _: InodeNumber) -> RangeSet:
        return self.uningested

    async def verdict_on(self, inode: InodeNumber, ranges: RangeSet, _: ChunkId) -> Verdict:
        """Make chunks of the staged bytes of a file; all but those of `copied` are new content."""
        new, copied = self.new.setdefault(inode, RangeSet()), RangeSet()
        for start, stop in ranges.without(new):
            middle = start + int((stop - start) * self.copied.get(inode, 0))
            copied.add(start, middle)
            new.add(middle, stop)
            self.staged_bytes -= stop - start
            self.loan_bytes -= stop - middle
        size = ranges.common(new).size
        return Verdict(copied, 0, size) if inode in self.pieces else Verdict(copied, size, 0)


@pytest.fixture
def space() -> FakeStore:
    return FakeStore(loan_bytes=48 * MB)


@pytest.fixture
def loans(space: FakeStore) -> Loans:
    return Loans(cast("Space", space), lambda: space.staged_bytes, space)


def borrowed(loans: Loans, inode: InodeNumber) -> int:
    """Borrow for a file as many bytes as the open loan has for it, and return their number."""
    size, place = 0, next(PLACES)
    while loans.borrow(MB // 4, (inode, place + size)):
        size += MB // 4
    return size


async def test_nothing_is_lent_without_a_loan(loans: Loans) -> None:
    """Writers get no byte of the reserve before a loan is opened, nor after its end."""
    assert not loans.borrow(1)
    assert loans.lend()
    assert loans.borrow(1)
    await loans.close()
    assert not loans.borrow(1)


async def test_the_example(loans: Loans, space: FakeStore) -> None:
    """Noise takes a probe of each file until half of the room is left, which is for copies."""
    space.loan_bytes, space.for_copies = 14 * MB, 7 * MB
    noise = iter(range(10, 20))

    async def probe(inode: InodeNumber) -> None:
        assert loans.lend()
        assert borrowed(loans, inode) == PROBE
        await loans.close()

    for _ in range(3):
        await probe(InodeNumber(next(noise)))
    assert space.loan_bytes == 11 * MB
    await probe(COPY)
    for _ in range(10):
        assert loans.lend()
        assert borrowed(loans, COPY) == 3.5 * MB
        await loans.close()
    for _ in range(4):
        await probe(InodeNumber(next(noise)))
    assert loans.lend()
    assert borrowed(loans, OTHER) == 0
    assert loans.borrow(4096)
    assert space.loan_bytes == 7 * MB


async def test_a_copy_that_goes_on_as_new_content(loans: Loans, space: FakeStore) -> None:
    """A file that began as a copy takes no more than the room for probes, or 1 MiB."""
    space.loan_bytes, space.for_copies = 14 * MB, 12 * MB
    for left in (2 * MB, PROBE):
        assert loans.lend()
        assert borrowed(loans, COPY) == PROBE
        await loans.close()
        assert loans.lend()
        assert borrowed(loans, COPY) == left
        space.staged_bytes, space.loan_bytes = 0, 13 * MB
        loans.forget()


async def test_a_copy_that_becomes_half_new(loans: Loans, space: FakeStore) -> None:
    """A file of which half is new gets no more once it has brought 1 MiB and a chunk of that."""
    room = space.loan_bytes
    while loans.lend() and borrowed(loans, MIXED):
        await loans.close()
    assert PROBE < room - space.loan_bytes <= 2 * PROBE
    loans.forget()
    assert loans.lend()
    assert borrowed(loans, COPY) == PROBE
    await loans.close()
    space.copied[COPY] = 0.8
    assert loans.lend()
    assert borrowed(loans, COPY) > 10 * PROBE
    await loans.close()
    assert loans.lend()
    assert borrowed(loans, COPY) == 0


def test_files_of_one_loan_share_the_room_for_probes(loans: Loans, space: FakeStore) -> None:
    """However many files are written at the same time, new content leaves the part of copies."""
    space.for_copies = 46 * MB
    assert loans.lend()
    assert [borrowed(loans, InodeNumber(10 + number)) for number in range(4)] == [MB, MB, 0, 0]


def test_a_small_loan_is_not_opened(loans: Loans, space: FakeStore) -> None:
    """A part of the room that is too small for a program to make headway is not lent."""
    space.loan_bytes = 3 * LOAN_LEAST - 3
    assert not loans.lend()
    assert not loans.borrow(1)


async def test_copies_are_lent_to_again(loans: Loans) -> None:
    """After a loan for copies of stored bytes there is another, for any length of copies."""
    assert loans.lend()
    assert borrowed(loans, COPY) == PROBE
    for _ in range(10):
        await loans.close()
        assert loans.lend()
        assert borrowed(loans, COPY) == 16 * MB


async def test_a_large_loan(loans: Loans, space: FakeStore) -> None:
    """A loan has a bound, however large the reserve is."""
    space.loan_bytes = 900 * MB
    loans.lend()
    borrowed(loans, COPY)
    await loans.close()
    assert loans.lend()
    assert borrowed(loans, COPY) == LOAN_MAX


async def test_new_content_gets_no_second_loan(loans: Loans, space: FakeStore) -> None:
    """A file of new content gets nothing more, until it is emptied or there is room."""
    assert loans.lend()
    assert borrowed(loans, NOISE) == PROBE
    await loans.close()
    assert loans.lend()
    assert not loans.borrow(1, (NOISE, 0))
    assert borrowed(loans, NOISE) == 0
    space.empty.add(NOISE)
    assert borrowed(loans, NOISE) == PROBE
    space.empty.clear()
    await loans.close()
    loans.forget()
    assert loans.lend()
    assert borrowed(loans, NOISE) == PROBE


async def test_a_copy_that_was_emptied_is_unknown(loans: Loans, space: FakeStore) -> None:
    """A file that was a copy, and is written once more from nothing on, gets a probe first."""
    assert loans.lend()
    borrowed(loans, COPY)
    await loans.close()
    assert loans.lend()
    space.empty.add(COPY)
    assert borrowed(loans, COPY) == PROBE


async def test_pieces_that_never_become_copies(loans: Loans) -> None:
    """A file of pieces that each may be the end of a copy takes 1 MiB and a chunk, and no more."""
    for _ in range(2):
        assert loans.lend()
        assert borrowed(loans, PIECES) == PROBE
        await loans.close()
    assert loans.lend()
    assert borrowed(loans, PIECES) == 0


async def test_a_copy_that_goes_on_as_pieces(loans: Loans, space: FakeStore) -> None:
    """It has the loan in which its pieces began, and no other."""
    space.copied[PIECES] = 1
    assert loans.lend()
    borrowed(loans, PIECES)
    await loans.close()
    space.copied[PIECES] = 0
    assert loans.lend()
    assert borrowed(loans, PIECES) == 16 * MB
    await loans.close()
    assert loans.lend()
    assert borrowed(loans, PIECES) == 0


async def test_a_piece_that_became_a_copy(loans: Loans, space: FakeStore) -> None:
    """The end of a copy is judged once more in the next loan, however many loans there are."""
    space.pieces.add(COPY)
    assert loans.lend()
    assert borrowed(loans, COPY) == PROBE
    for _ in range(10):
        await loans.close()
        space.new[COPY].add(1, MB - 1)
        space.copied[COPY] = 1
        assert loans.lend()
        assert borrowed(loans, COPY) == 16 * MB


async def test_bytes_that_are_staged_still(loans: Loans, space: FakeStore) -> None:
    """They are judged when they are in chunks, and not by the chunks in whose place they come."""
    assert loans.lend()
    assert loans.borrow(MB, (NOISE, 0))
    space.uningested.add(0, MB)
    await loans.close()
    assert NOISE not in space.new or not space.new[NOISE]
    space.uningested = RangeSet()
    assert loans.lend()
    assert loans.borrow(MB // 2, (NOISE, MB))
    await loans.close()
    assert space.new[NOISE].size == 1.5 * MB
    assert loans.lend()
    assert borrowed(loans, NOISE) == 0


async def test_a_damaged_index(
    loans: Loans,
    space: FakeStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A file that cannot be judged is not known to be a copy, and ends nothing else."""

    async def fail(*_: object) -> Verdict:
        raise CorruptIndex("damaged")

    monkeypatch.setattr(space, "verdict_on", fail)
    for size in (PROBE, PROBE, 0):
        assert loans.lend()
        assert borrowed(loans, COPY) == size
        await loans.close()
        space.staged_bytes = 0
    assert "damaged" in caplog.text
    caplog.clear()
