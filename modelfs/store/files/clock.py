"""The clock of files' times, and the times that a record can have.

The kernel marks a time "now" with its coarse clock, which steps with the timer interrupt, every 1
to 10 ms. The store uses the same clock: the exact one is ahead of it, so a `touch` right after a
creation would move mtime back. Since Linux 6.13 the kernel's stamps can be ahead of that clock by
less than a step ("multigrain timestamps"), so a stamp is never before one that the file has.

utimensat(2) sets any time at all. As in ext4, one that a record has no room for becomes the nearest
one that it has.

Example. `touch -d 2300-01-01 a` gives `a` the time `LATEST_NS`, in the year 2262.
"""

import time
from typing import Final

# linux/time.h; Python's `time` has no name for it.
CLOCK_REALTIME_COARSE: Final = 5
# The longest step of that clock: at 100 timer interrupts a second.
STEP_NS: Final = 10_000_000

# A record has 64 bits, signed, for the nanoseconds since 1970: whole seconds at both ends.
LATEST_NS: Final = ((1 << 63) - 1) // 10**9 * 10**9
EARLIEST_NS: Final = -LATEST_NS


def now_ns(previous_ns: int = EARLIEST_NS) -> int:
    """Return the present time in nanoseconds since 1970, by the kernel's clock of files.

    Args:
        previous_ns: the time that is replaced: see `later_ns`.
    """
    return later_ns(previous_ns, time.clock_gettime_ns(CLOCK_REALTIME_COARSE))


def later_ns(previous_ns: int, stamp_ns: int) -> int:
    """Return the kernel's stamp, or the time that it replaces if that is ahead by a step at most.

    If it is ahead by more, a program has set it, or the clock back.
    """
    return previous_ns if stamp_ns < previous_ns <= stamp_ns + STEP_NS else stamp_ns


def clamped(time_ns: int) -> int:
    """Return the nearest time, in nanoseconds since 1970, that a record can have."""
    return max(EARLIEST_NS, min(LATEST_NS, time_ns))
