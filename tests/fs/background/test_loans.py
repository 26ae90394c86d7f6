"""Loans of the reserve to writers, whose bytes may be copies."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from modelfs.errors import CorruptIndex, StoreFull
from modelfs.fs.background.loans import LOAN_LEAST, LOAN_MAX, PROBE, Loans, Verdict, verdict_on
from modelfs.store.disk.space import Space
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.tables import InodeNumber
from tests.support.stores import CHUNK, checked, new_store, noise, stored_file

MB = 1 << 20
COPY, NOISE, OTHER, MIXED = map(InodeNumber, range(2, 6))


@dataclass
class FakeSpace:
    """Stands for the space of a store that has only a part of its reserve left."""

    loan_bytes: int
    for_copies: int = 0
    staged: int = 0
    copied: dict[InodeNumber, float] = field(default_factory=lambda: {COPY: 1, MIXED: 0.5})

    @property
    def probe_bytes(self) -> int:
        return self.loan_bytes - self.for_copies

    def borrow(self, size: int, staged_max: int) -> None:
        if self.staged + size > staged_max:
            raise StoreFull("full")
        self.staged += size

    async def verdict_on(self, inode: InodeNumber, ranges: RangeSet) -> Verdict:
        """Make chunks of the staged bytes of a file; all but those of `copied` are new content."""
        self.staged -= ranges.size
        copied = int(ranges.size * self.copied.get(inode, 0))
        self.loan_bytes -= ranges.size - copied
        return Verdict(copied, ranges.size - copied)


@pytest.fixture
def space() -> FakeSpace:
    return FakeSpace(loan_bytes=48 * MB)


@pytest.fixture
def loans(space: FakeSpace) -> Loans:
    return Loans(cast("Space", space), lambda: space.staged, space.verdict_on)


def borrowed(loans: Loans, inode: InodeNumber, start: int = MB) -> int:
    """Borrow for a file as many bytes as the open loan has for it, and return their number."""
    size = 0
    while loans.borrow(MB // 4, (inode, start + size)):
        size += MB // 4
    return size


async def test_nothing_is_lent_without_a_loan(loans: Loans) -> None:
    """Writers get no byte of the reserve before a loan is opened, nor after its end."""
    assert not loans.borrow(1)
    assert loans.lend()
    assert loans.borrow(1)
    await loans.close()
    assert not loans.borrow(1)


async def test_the_example(loans: Loans, space: FakeSpace) -> None:
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


async def test_a_copy_that_goes_on_as_new_content(loans: Loans, space: FakeSpace) -> None:
    """A file that began as a copy takes no more than the room for probes, or 1 MiB."""
    space.loan_bytes, space.for_copies = 14 * MB, 12 * MB
    for left in (2 * MB, PROBE):
        assert loans.lend()
        assert borrowed(loans, COPY) == PROBE
        await loans.close()
        assert loans.lend()
        assert borrowed(loans, COPY) == left
        space.staged, space.loan_bytes = 0, 13 * MB
        loans.forget()


async def test_a_copy_that_becomes_half_new(loans: Loans, space: FakeSpace) -> None:
    """A file of which half is new gets no more once it has brought 1 MiB of new content."""
    room = space.loan_bytes
    while loans.lend() and borrowed(loans, MIXED):
        await loans.close()
    assert PROBE < room - space.loan_bytes <= 2 * PROBE
    loans.forget()
    assert loans.lend()
    assert borrowed(loans, COPY) == PROBE
    await loans.close()
    space.copied[COPY] = 0.9
    assert loans.lend()
    assert borrowed(loans, COPY) > 10 * PROBE
    await loans.close()
    assert loans.lend()
    assert borrowed(loans, COPY) == 0


def test_files_of_one_loan_share_the_room_for_probes(loans: Loans, space: FakeSpace) -> None:
    """However many files are written at the same time, new content leaves the part of copies."""
    space.for_copies = 46 * MB
    assert loans.lend()
    assert [borrowed(loans, InodeNumber(10 + number)) for number in range(4)] == [MB, MB, 0, 0]


def test_a_small_loan_is_not_opened(loans: Loans, space: FakeSpace) -> None:
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


async def test_a_large_loan(loans: Loans, space: FakeSpace) -> None:
    """A loan has a bound, however large the reserve is."""
    space.loan_bytes = 900 * MB
    loans.lend()
    borrowed(loans, COPY)
    await loans.close()
    assert loans.lend()
    assert borrowed(loans, COPY) == LOAN_MAX


async def test_new_content_gets_no_second_loan(loans: Loans) -> None:
    """A file of new content gets nothing more, until it begins again or there is room."""
    assert loans.lend()
    assert borrowed(loans, NOISE) == PROBE
    await loans.close()
    assert loans.lend()
    assert borrowed(loans, NOISE) == 0
    assert borrowed(loans, NOISE, start=0) == PROBE
    await loans.close()
    loans.forget()
    assert loans.lend()
    assert borrowed(loans, NOISE) == PROBE


async def test_a_copy_that_begins_again_is_unknown(loans: Loans) -> None:
    """A file that was a copy, and is written from its beginning again, gets a probe first."""
    assert loans.lend()
    borrowed(loans, COPY)
    await loans.close()
    assert loans.lend()
    assert borrowed(loans, COPY, start=0) == PROBE


async def test_a_damaged_index(space: FakeSpace, caplog: pytest.LogCaptureFixture) -> None:
    """A file that cannot be judged is not known to be a copy, and ends nothing else."""

    async def fail(inode: InodeNumber, ranges: RangeSet) -> Verdict:
        raise CorruptIndex("damaged")

    loans = Loans(cast("Space", space), lambda: space.staged, fail)
    assert loans.lend()
    assert borrowed(loans, COPY) == PROBE
    await loans.close()
    space.staged = 0
    assert loans.lend()
    assert borrowed(loans, COPY) == PROBE
    assert "damaged" in caplog.text
    caplog.clear()


def test_the_verdict_on_a_file(tmp_path: Path) -> None:
    """Shared chunks are copies; an incomplete piece at the end of the bytes does not count."""
    with checked(new_store(tmp_path)) as box:
        first, other = noise(3 * CHUNK), noise(2 * CHUNK, 1)
        stored_file(box.store, b"first", first)
        copy = stored_file(box.store, b"copy", first[: 2 * CHUNK + 100])
        new = stored_file(box.store, b"new", other[: CHUNK + 100])
        mixed = stored_file(box.store, b"mixed", first[:CHUNK] + other[CHUNK:])
        both = RangeSet([(0, 2 * CHUNK)])
        beginning = RangeSet([(0, CHUNK + 100)])
        whole = RangeSet([(0, 2 * CHUNK + 100)])
        assert verdict_on(box.store, copy, whole) == Verdict(2 * CHUNK, 0)
        assert verdict_on(box.store, new, beginning) == Verdict(0, CHUNK)
        assert verdict_on(box.store, new, both) == Verdict(0, CHUNK)
        assert verdict_on(box.store, new, RangeSet([(CHUNK, CHUNK + 100)])) == Verdict(0, 0)
        assert verdict_on(box.store, mixed, both) == Verdict(CHUNK, CHUNK)
