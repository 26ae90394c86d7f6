"""Loans: bytes of the reserve that writers may stage, because they may be copies of stored bytes.

When nothing is staged and no garbage is left, only the reserve is left. Copies of stored bytes take
no room in the end, so the reserve is lent to writers a *loan* at a time, which is a third of the
room that is left. Acknowledged bytes stay, even if the next write fails, so new content in a loan
uses the reserve up. Hence a file begins with a *probe*, of 1 MiB. When these bytes are in chunks,
each file of the loan is judged: a file of copies may use the next loan whole; one of new content
gets no byte more, unless it is emptied. A file that mixes both gets probes until 1 MiB and a chunk
of all its loans take room. The chunk is for the end of a copy, which takes room until the rest of
its chunk is written; each piece of a file with holes may be such an end. Probes end when half of
the room is used up: the rest is for files that are known to be copies, and for rows of the index. A
loan is no larger than the room that is left for probes, or 1 MiB, since a file may begin as a copy
only.

Example. A store has 18 MiB of its reserve above the floor. 4 of them are slack for the growth of
the index, and 7 are for probes. Three programs write noise: each has an error after 1 MiB, and 15
MiB are left. A program copies a stored model: its first MiB is found stored, so it gets a loan of
3.7 MiB, a third of 11, and another, until the model's end. Four more programs write noise, which
leaves 11 MiB. From now on no other file gets its first MiB, but names are still created, and the
optimizer has room to begin.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from modelfs.errors import ModelfsError, StoreFull
from modelfs.fs.background.borrowers import BorrowingFiles
from modelfs.store.disk.space import Space
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.tables import ChunkId, InodeNumber

log = logging.getLogger(__name__)

LOAN_MAX: Final = 64 << 20
# A loan has this part of the room that is left, and is not worth it below `LOAN_LEAST`.
LOAN_PART: Final = 1 / 3
LOAN_LEAST: Final = 1 << 20
# The bytes that a file may stage in a loan before any of them was found stored. Not fewer, as a
# write of the kernel has so many.
PROBE: Final = 1 << 20

Position = tuple[InodeNumber, int]  # a byte of a file: the offset is from its start


@dataclass(slots=True)
class _Loan:
    """Bytes of the reserve that writers may stage."""

    staged_max: int
    probes: int  # bytes that are left for probes
    lent: dict[InodeNumber, RangeSet] = field(default_factory=dict)


@dataclass(slots=True)
class _Borrower:
    """A file that has borrowed, until there is room without loans."""

    before: ChunkId  # those below this number were there before it borrowed
    is_copy: bool = False  # its last loan was of copies
    is_refused: bool = False  # a loan was of new content, for the most part
    new: int = 0  # bytes of new content, in all loans
    charge: int = 0  # bytes that take room, as far as it is known: new ones, and incomplete pieces
    unproved: RangeSet = field(default_factory=RangeSet)  # bytes that were not found stored


class Loans:
    """Lends the reserve of a store to writers, a loan at a time."""

    def __init__(self, space: Space, staged: Callable[[], int], files: BorrowingFiles) -> None:
        """Create it without a loan.

        Args:
            space: of the store.
            staged: returns the bytes that are not in chunks yet.
            files: of the store.
        """
        self._space = space
        self._staged = staged
        self._files = files
        self._loan: _Loan | None = None
        self._borrowers: dict[InodeNumber, _Borrower] = {}

    def borrow(self, size: int, at: Position | None = None) -> bool:
        """Grant a writer bytes of the loan that is open; return whether there are so many.

        Args:
            size: of the bytes.
            at: where in a file they are; None: they are rows of the index.
        """
        loan = self._loan
        if loan is None or (at is not None and not self._is_eligible(loan, size, at[0])):
            return False
        try:
            self._space.borrow(size, loan.staged_max)
        except StoreFull:
            return False
        if at is not None:
            inode, offset = at
            loan.lent.setdefault(inode, RangeSet()).add(offset, offset + size)
            if not self._borrower(inode).is_copy:
                loan.probes -= size
        return True

    def _is_eligible(self, loan: _Loan, size: int, inode: InodeNumber) -> bool:
        """Whether a file may have so many bytes of a loan, as far as it is known."""
        if self._files.is_empty(inode):
            self._borrowers.pop(inode, None)
        borrower = self._borrower(inode)
        if borrower.is_refused or borrower.charge >= PROBE + self._files.chunk_size:
            return False
        if borrower.is_copy:
            return True
        lent = loan.lent[inode].size if inode in loan.lent else 0
        return lent + size <= PROBE and size <= loan.probes

    def _borrower(self, inode: InodeNumber) -> _Borrower:
        if inode not in self._borrowers:
            self._borrowers[inode] = _Borrower(self._files.next_chunk())
        return self._borrowers[inode]

    def lend(self) -> bool:
        """Open a loan, if enough of the reserve is left; return whether it is."""
        staged = self._staged()
        room = self._space.loan_bytes - staged
        probes = self._space.probe_bytes - staged
        size = min(LOAN_MAX, int(LOAN_PART * room), max(probes, PROBE))
        if size < LOAN_LEAST:
            return False
        self._loan = _Loan(staged + size, probes)
        return True

    async def close(self) -> None:
        """End the loan, if one is open, when its bytes are in chunks, and judge its files."""
        loan, self._loan = self._loan, None
        if loan is None:
            return
        for inode, lent in loan.lent.items():
            await self._record_verdict(inode, lent)

    async def _record_verdict(self, inode: InodeNumber, lent: RangeSet) -> None:
        """Decide by the bytes that a file had of its loans whether it may have more."""
        borrower = self._borrower(inode)
        borrower.unproved.update(lent)
        # Some may have been staged since the last ingest.
        in_chunks = borrower.unproved.without(self._files.staged(inode))
        try:
            verdict = await self._files.verdict_on(inode, in_chunks, borrower.before)
        except ModelfsError as exc:  # no end of the daemon's rounds
            log.error("whether file %d has copies of stored bytes is not known: %s", inode, exc)
            borrower.charge += lent.size
            return
        borrower.unproved = borrower.unproved.without(verdict.copied)
        more = verdict.new - borrower.new
        borrower.new, borrower.charge = verdict.new, verdict.new + verdict.incomplete
        if verdict.copied or more > 0:
            borrower.is_copy = more <= 0
        if more > verdict.copied.size:
            borrower.is_refused = True

    def forget(self) -> None:
        """End the loan, because there is room without it; all files may borrow again."""
        self._loan = None
        self._borrowers.clear()
