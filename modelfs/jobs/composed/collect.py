"""Garbage collection as a whole: orphans, base-only chunks, dead chunks, and sparse packs.

Base-only chunks are no garbage for `gc` alone: the optimizer encodes their dependants without them
first. New forms need room, so the rest of the garbage is collected before that, and then once more.

Example. A model of 14 GB was removed, and 2 GB of its chunks are the bases of a fine-tune. Its
inode is removed, and 12 GB of dead chunks go with the packs that they are in. Then the fine-tune's
chunks are encoded by themselves, the bases are dead, and the second collection frees their packs.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from modelfs.jobs.gc.collector import LIVE_MIN_SMALL, Collector, Garbage
from modelfs.jobs.gc.job import OrphanQueue, collect
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.job import Optimizer
from modelfs.jobs.optimize.rebase import measure_bases
from modelfs.jobs.steps import Job, Pause, Work
from modelfs.store.index.counters import BASE_ONLY_CHUNKS
from modelfs.store.store import Store


def collect_all(
    store: Store,
    collector: Collector,
    orphans: OrphanQueue,
    live_min: float = LIVE_MIN_SMALL,
    enough: Callable[[], bool] = lambda: False,
    *,
    threads: int,
) -> Job[Garbage]:
    """Remove orphans, dead chunks and base-only chunks, and rewrite sparse packs.

    Args:
        store: the store.
        collector: of that store.
        orphans: of that store; those that no program has open.
        live_min: packs with a smaller part of live bytes are rewritten.
        enough: whether enough room is free, so that no other pack needs to be rewritten.
        threads: that encode the dependants of base-only chunks at the same time.

    Returns:
        The chunks that were garbage, and the bytes by which the packs became smaller.

    Raises:
        StoreFull, OSError: no room to rewrite a pack, or the disk failed. All other garbage is
            collected, and nothing is lost.
    """
    yield from orphans.remove()
    found: Garbage = yield Work(partial(collector.measured, live_min))
    before = collector.pack_bytes()
    freed = 0
    if found.base_only_chunks:
        # First without them, which makes the room that the new forms need.
        yield from collect(store, collector, live_min, enough)
        freed = yield from _free_bases(store, threads)
    garbage = yield from collect(store, collector, live_min, enough)
    yield Work(store.space.measure)
    return replace(
        garbage,
        dead_chunks=found.dead_chunks,
        dead_bytes=found.dead_bytes,
        pack_bytes=max(0, before - collector.pack_bytes()),
        base_only_chunks=freed,
        base_only_bytes=0,  # they are among those of the packs
    )


def survey(store: Store, collector: Collector, live_min: float = LIVE_MIN_SMALL) -> Garbage:
    """Return the garbage that `collect_all` would find, without orphans. Any thread.

    Encodes the dependants of base-only chunks, since only their sizes show which ones can go.
    """
    found = collector.measured(live_min)
    if not found.base_only_chunks:
        return found
    chunks, size = measure_bases(store, Backlog(store).depth)
    return replace(found, base_only_chunks=chunks, base_only_bytes=size)


def _free_bases(store: Store, threads: int) -> Job[int]:
    """Encode the chunks that derive from base-only ones without these, a batch at a time.

    Returns:
        How many chunks are no longer base-only.
    """
    before = store.counters.get(BASE_ONLY_CHUNKS)
    optimizer = Optimizer(store, Backlog(store), threads)
    try:
        while (yield from optimizer.free_bases()) is not None:
            yield Pause()
    finally:
        optimizer.close()
    return max(0, before - store.counters.get(BASE_ONLY_CHUNKS))
