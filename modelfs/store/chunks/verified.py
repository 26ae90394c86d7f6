"""Parts of the store, such as places of stored bytes, that were verified a short time ago."""

import math
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from modelfs.fork_lock import fork_lock
from modelfs.store.index.tables import PackId

# The most parts remembered: of places some 60 MB of memory, for 200 GB of 1 MiB chunks.
VERIFIED_MAX: Final = 200_000
# A part counts as verified for so long. A later read may come from the disk again, where the bytes
# may have rotted meanwhile. Readers need less time from one end of a chunk to the other.
TRUST_SECONDS: Final = 60.0

Place = tuple[PackId, int]  # and the offset in the pack

K = TypeVar("K", bound=Hashable)


class Verified(Generic[K]):
    """The parts verified last, at most `capacity` of them. Any thread."""

    def __init__(self, capacity: int = VERIFIED_MAX) -> None:
        self._capacity = capacity
        self._verified: OrderedDict[K, float] = OrderedDict()  # monotonic seconds
        self._lock = fork_lock()

    def __contains__(self, part: K) -> bool:
        """Whether a part was verified within the last `TRUST_SECONDS`."""
        return time.monotonic() - self._verified.get(part, -math.inf) < TRUST_SECONDS

    def discard(self, part: K) -> None:
        with self._lock:
            self._verified.pop(part, None)

    def clear(self) -> None:
        with self._lock:
            self._verified.clear()

    def add(self, part: K) -> None:
        with self._lock:
            self._verified[part] = time.monotonic()
            if len(self._verified) > self._capacity:
                self._verified.popitem(last=False)
