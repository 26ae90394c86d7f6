"""Garbage collection of a store that is not mounted, for the commands that need it."""

from dataclasses import replace

from modelfs.jobs.gc.collector import LIVE_MIN_SMALL, Collector, Garbage
from modelfs.jobs.gc.job import collect, remove_orphans
from modelfs.jobs.optimize.job import free_bases
from modelfs.jobs.steps import Job
from modelfs.store.store import Store


def collect_all(
    store: Store, collector: Collector, live_min: float = LIVE_MIN_SMALL
) -> Job[Garbage]:
    """Collect all garbage: removed files, base-only chunks, dead chunks, and sparse packs.

    Returns:
        The chunks that were garbage, and the bytes by which the packs became smaller.
    """
    yield from remove_orphans(store)
    bases, before = collector.survey(live_min), collector.pack_bytes()
    if bases.base_only_chunks:
        yield from collect(store, collector, live_min)  # makes the room that the new forms need
        yield from free_bases(store)
    garbage = yield from collect(store, collector, live_min)
    return replace(
        garbage,
        dead_chunks=bases.dead_chunks,
        dead_bytes=bases.dead_bytes,
        pack_bytes=max(0, before - collector.pack_bytes()),
        base_only_chunks=bases.base_only_chunks,
        base_only_bytes=0,  # they are among those of the packs
    )
