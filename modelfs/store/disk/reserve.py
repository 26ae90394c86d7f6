"""The reserve of a disk: how much of it is left free, and for which work.

`disk.space` has the reasons. All sizes are in bytes, and follow from the size of the disk, or of
the store's limit if that is less.

Example. A disk of 100 GiB has a reserve of 256 MiB, a floor of 32 MiB, and a slack of 4 MiB. With
300 MiB free, and nothing staged, writers may stage 44 MiB. One of 200 MiB has a reserve of 24 MiB,
more than its part, with a floor of 3 MiB.
"""

from dataclasses import dataclass
from typing import Final, Self

RESERVE_MAX: Final = 256 << 20
# On small disks the reserve is this part of them, or this many bytes if that is a quarter at most.
RESERVE_PART: Final = 0.05
RESERVE_MIN: Final = 24 << 20
# This part of the reserve is left to the index and to fsyncs.
FLOOR_PART: Final = 1 / 8
# Below a limit it is at least this, or half of the reserve: the index allocates 4 MiB at a time.
LIMIT_FLOOR_MIN: Final = 6 << 20
# Writers and loans leave this part of the reserve above the floor, or so many bytes: the index may
# grow by 4 MiB before the bytes that they staged are in chunks.
SLACK_PART: Final = 1 / 4
SLACK_MAX: Final = 4 << 20
# Loans to writers whose bytes are not known to be copies leave this part of the rest.
COPIES_PART: Final = 1 / 2
# `spend` is asked for a page of padding for each chunk of a segment.
INGEST_MARGIN: Final = 3 << 20
# Tables of segments and records of the index take less than this part of the bytes, as a divisor.
COPY_TABLES: Final = 32


@dataclass(frozen=True, slots=True)
class Reserve:
    """The bytes of one disk that are left free."""

    size: int  # by writers
    floor: int  # by ingest and the optimizer; a part of `size`
    slack: int  # by writers, above the floor

    @property
    def for_copies(self) -> int:
        """Bytes above floor and slack that new content in loans leaves to copies."""
        return int((self.size - self.floor - self.slack) * COPIES_PART)

    @classmethod
    def of(cls, total: int, *, limited: bool = False) -> Self:
        """Return the reserve of a disk.

        Args:
            total: size of the disk, or of the store's limit.
            limited: whether it is the limit.
        """
        smallest = min(RESERVE_MIN, total // 4)
        size = min(RESERVE_MAX, max(int(total * RESERVE_PART), smallest))
        floor = int(size * FLOOR_PART)
        if limited:
            floor = max(floor, min(LIMIT_FLOOR_MIN, size // 2))
        return cls(size, floor, min(SLACK_MAX, int(size * SLACK_PART)))

    def for_writers(self, free: int, staged: int) -> int:
        """Return how many bytes may be staged more; negative if the reserve is in use.

        Afterwards all staged bytes have room for a copy, as chunks.

        Args:
            free: bytes of the disk.
            staged: bytes so far.
        """
        left = free - self.floor - self.slack - INGEST_MARGIN - staged - staged // COPY_TABLES
        return min(free - self.size, left * COPY_TABLES // (2 * COPY_TABLES + 1))


def as_chunks(staged: int) -> int:
    """Return the free bytes that the ingest of staged bytes needs, with tables and padding."""
    return staged + staged // COPY_TABLES + INGEST_MARGIN if staged else 0
