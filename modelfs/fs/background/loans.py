"""Loans: bytes of the reserve that writers may stage, because they may be copies of stored bytes.

When nothing is staged and no garbage is left, only the reserve is left. Copies of stored bytes take
no room in the end, so the reserve is lent to writers a *loan* at a time. A loan is a part of the
room that is left, so some is always left for the next. If more than half of it was new content, the
room is used up, and the next loan is smaller.

Example. 22 MiB of the reserve are left. 4 of them are slack for the growth of the index, and a loan
of 6 MiB, a third of the others, is opened. A program writes as many bytes, and ingest finds them
all stored: at the close 22 MiB are left, and the next loan may be larger. A program writes 6 MiB of
noise: at the close 16 MiB are left, and there is no next loan until a request finds no room again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from modelfs.errors import StoreFull
from modelfs.store.disk.space import Space

# Less room than this, made or used up, counts as none.
NEGLIGIBLE: Final = 64 << 10
LOAN_MIN: Final = 4 << 20
LOAN_MAX: Final = 64 << 20
# A loan has this part of the room that is left, and is not worth it below `LOAN_LEAST`.
LOAN_PART: Final = 1 / 3
LOAN_LEAST: Final = 1 << 20


@dataclass(slots=True)
class _Loan:
    """Bytes of the reserve that writers may stage."""

    working: int  # bytes of the reserve that were left at its beginning
    staged_max: int
    lent: int = 0


class Loans:
    """Lends the reserve of a store to writers, a loan at a time."""

    def __init__(self, space: Space, staged: Callable[[], int]) -> None:
        """Create it without a loan; `staged` returns the bytes that are not in chunks yet."""
        self._space = space
        self._staged = staged
        self._loan: _Loan | None = None
        self._size_max = LOAN_MAX

    def borrow(self, size: int) -> bool:
        """Grant a writer bytes of the loan that is open; return whether there are so many."""
        if self._loan is None:
            return False
        try:
            self._space.borrow(size, self._loan.staged_max)
        except StoreFull:
            return False
        self._loan.lent += size
        return True

    def lend(self) -> bool:
        """Open a loan, if enough of the reserve is left; return whether it is."""
        staged = self._staged()
        size = min(self._size_max, int(LOAN_PART * (self._space.loan_bytes - staged)))
        if size < LOAN_LEAST:
            return False
        self._loan = _Loan(self._space.working_bytes, staged + size)
        return True

    def close(self) -> bool:
        """End the loan, if one is open; return False if it went to new content."""
        loan, self._loan = self._loan, None
        if loan is None:
            return True
        lost = loan.working - self._space.working_bytes
        if lost > max(NEGLIGIBLE, loan.lent // 2):
            self._size_max = max(LOAN_MIN, self._size_max // 8)
            return False
        self._size_max = min(LOAN_MAX, 2 * self._size_max)
        return True

    def forget(self) -> None:
        """End the loan, because there is room without it; the next one may be large."""
        self._loan, self._size_max = None, LOAN_MAX
