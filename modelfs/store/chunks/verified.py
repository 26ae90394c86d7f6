"""Which stored bytes were found good a short time ago."""

import math
import threading
import time
from collections import OrderedDict
from typing import Final

from modelfs.store.index.tables import PackId

# How many chunks are remembered as checked: some 60 MB of memory for 200 GB of 1 MiB chunks.
VERIFIED_MAX: Final = 200_000
# And for how long: what is read once more later may come from the disk again, and that may have
# rotted meanwhile. Longer than a reader needs to come from one end of a chunk to the other.
TRUST_SECONDS: Final = 60.0

Place = tuple[PackId, int]  # and the offset in it


class VerifiedPlaces:
    """The places verified last, up to a number, and not long ago. Any thread."""

    def __init__(self, capacity: int = VERIFIED_MAX) -> None:
        self._capacity = capacity
        self._members: OrderedDict[Place, float] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, place: Place) -> bool:
        return time.monotonic() - self._members.get(place, -math.inf) < TRUST_SECONDS

    def discard(self, place: Place) -> None:
        with self._lock:
            self._members.pop(place, None)

    def add(self, place: Place) -> None:
        with self._lock:
            self._members[place] = time.monotonic()
            if len(self._members) > self._capacity:
                self._members.popitem(last=False)
