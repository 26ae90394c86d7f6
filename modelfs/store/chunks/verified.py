"""The places of stored bytes that were verified a short time ago."""

import math
import time
from collections import OrderedDict
from typing import Final

from modelfs.fork_lock import fork_lock
from modelfs.store.index.tables import PackId

# The most places remembered: some 60 MB of memory, for 200 GB of 1 MiB chunks.
VERIFIED_MAX: Final = 200_000
# A place counts as verified for so long. A later read may come from the disk again, where the bytes
# may have rotted meanwhile. Readers need less time from one end of a chunk to the other.
TRUST_SECONDS: Final = 60.0

Place = tuple[PackId, int]  # and the offset in the pack


class VerifiedPlaces:
    """The places verified last, at most `capacity` of them. Any thread."""

    def __init__(self, capacity: int = VERIFIED_MAX) -> None:
        self._capacity = capacity
        self._verified: OrderedDict[Place, float] = OrderedDict()  # monotonic seconds, by place
        self._lock = fork_lock()

    def __contains__(self, place: Place) -> bool:
        """Whether a place was verified within the last `TRUST_SECONDS`."""
        return time.monotonic() - self._verified.get(place, -math.inf) < TRUST_SECONDS

    def discard(self, place: Place) -> None:
        with self._lock:
            self._verified.pop(place, None)

    def clear(self) -> None:
        with self._lock:
            self._verified.clear()

    def add(self, place: Place) -> None:
        with self._lock:
            self._verified[place] = time.monotonic()
            if len(self._verified) > self._capacity:
                self._verified.popitem(last=False)
