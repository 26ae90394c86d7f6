"""The room that an optimization needs, and the bound on it.

New forms are appended, and the bytes that they replace are garbage until a collection. So a run
goes batch by batch, and garbage is collected in between, whenever it is more than a bound. The room
that a run takes at most is then a batch, the bound, and the copy of one pack that gc makes.

Example. In a store of 10 GiB, on a disk with 4 GiB free, the bound is 512 MiB: a run takes 64 + 512
+ 256 MiB at most. If only 200 MiB are free, garbage is collected from 100 MiB on, and batches have
50 MiB. If 80 GiB are free, the bound is 10 GiB, and garbage is collected once, at the end. That
is faster, as each collection copies the live chunks of sparse packs.
"""

from dataclasses import dataclass
from typing import Final

from modelfs.jobs.optimize.backlog import BATCH_BYTES, BATCH_BYTES_MIN
from modelfs.store.packs.pack import PACK_SIZE
from modelfs.store.store import Store

# The bound on garbage: a part of the store, so that a collection is worth its copies, or a part of
# the room if that is more.
GARBAGE_PART: Final = 0.05
GARBAGE_MIN: Final = 64 << 20
AMPLE_PART: Final = 1 / 8
# With little room, this part of it.
ROOM_PART: Final = 0.5


@dataclass(frozen=True, slots=True)
class OptimizeRoom:
    """Sizes in bytes."""

    needed: int  # at most, by a run without a shortage
    least: int  # with less, no run can do anything
    free: int


def garbage_max(store: Store) -> int:
    """Return how many bytes of garbage a run may leave before a collection."""
    return min(_most(store), max(BATCH_BYTES_MIN, int(ROOM_PART * store.space.working_bytes)))


def _most(store: Store) -> int:
    of_store = GARBAGE_PART * store.inventory.stored_bytes()
    return max(GARBAGE_MIN, int(of_store), int(AMPLE_PART * store.space.working_bytes))


def room_for(store: Store, work: int) -> OptimizeRoom:
    """Return the room for a run, and the room that there is. Any thread; walks over the store.

    Args:
        store: the store.
        work: bytes of the backlog's files, and of those that are still staged.
    """
    store.space.measure()
    needed = min(work + work // 16, BATCH_BYTES + _most(store) + PACK_SIZE)
    return OptimizeRoom(needed, min(needed, 2 * BATCH_BYTES_MIN), max(0, store.space.working_bytes))
