"""Settings of the C library's heap: freed memory is kept for the next allocation.

Chunks, their stored bytes and the buffers of codecs are large, short-lived and of a few sizes.
glibc would return their memory to the system and ask for it again, and new pages cost more than the
work on them: 0.4 s for a GB on a virtual machine, where decoding planes takes 0.3 s. The docstring
of `tools/run bench.decode`, which measured that, explains how rounds are kept comparable.
"""

import ctypes
from typing import Final

# mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8

KEPT: Final = 32 << 20  # free bytes that stay at the end of each heap
MAPPED: Final = 32 << 20  # larger blocks are mapped one by one; glibc accepts no higher limit
HEAPS: Final = 2


def keep_heap() -> None:
    """Keep freed memory for the next allocations, if the C library has mallopt(3)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, KEPT)
        mallopt(_MMAP_THRESHOLD, MAPPED)
        mallopt(_ARENA_MAX, HEAPS)
