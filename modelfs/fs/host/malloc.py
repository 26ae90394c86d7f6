"""How the daemon's memory is given back to the system: not at once.

Chunks, their stored bytes and what codecs make of them in between are large, short-lived and of a
few sizes. glibc would give their memory back and ask for it again, and new pages cost more than
what is done with them: 0.4 s for a GB on a virtual machine, where decoding planes takes 0.3 s
(`tools/run bench.decode`, which says how to make it comparable).
"""

import ctypes
from typing import Final

# mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8

KEPT: Final = 32 << 20  # of free bytes at the end of each heap
MAPPED: Final = 32 << 20  # what is larger is mapped by itself: the most that glibc takes
HEAPS: Final = 2


def keep_heap() -> None:
    """Have freed memory kept for what is allocated next, where the C library can."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, KEPT)
        mallopt(_MMAP_THRESHOLD, MAPPED)
        mallopt(_ARENA_MAX, HEAPS)
