"""Garbage collection, as jobs."""

import dataclasses
from collections.abc import Callable
from functools import partial

from modelfs.jobs.gc.collector import (
    LIVE_MIN,
    LIVE_MIN_SHORT,
    LIVE_MIN_SMALL,
    Collector,
    Garbage,
)
from modelfs.jobs.steps import Commit, Job, Work, pausing
from modelfs.store.chunks.writer import WriteResult
from modelfs.store.index.tables import InodeNumber, PackId
from modelfs.store.store import Store


def collect(
    store: Store,
    collector: Collector,
    live_min: float = LIVE_MIN,
    enough: Callable[[], bool] = lambda: False,
) -> Job[Garbage]:
    """Remove dead chunks, drop stale hints, and rewrite sparse packs.

    The caller holds off other writers of packs, and readers that need packs to stay.

    Args:
        store: the store.
        collector: of that store.
        live_min: packs are sparse if their live chunks would take a smaller part of them.
        enough: whether enough room is free, so that no other pack needs to be rewritten.

    Returns:
        The dead chunks that there were at the beginning, the packs that were rewritten, and the
        bytes by which all packs together became smaller.

    Raises:
        StoreFull: no room to rewrite some pack; the collection is complete up to that pack.
        OSError: the disk failed; nothing is lost.
    """
    yield Work(partial(collector.measure, live_min))
    garbage: Garbage = yield Work(partial(collector.survey, live_min))
    before = collector.pack_bytes()
    yield from pausing(store.reclaimer.remove_dead())
    yield from pausing(collector.drop_stale_hints())
    yield Commit()
    rewritten = 0
    for pack in collector.sparse_packs(live_min):
        if enough():
            break
        yield from _rewrite(store, collector, pack)
        rewritten += 1
    freed = max(0, before - collector.pack_bytes())
    return dataclasses.replace(garbage, packs=rewritten, pack_bytes=freed)


def collect_above(store: Store, collector: Collector, garbage_max: int) -> Job[None]:
    """Collect until no more than so many bytes of packs are garbage, sparsest packs first.

    The caller and the errors are as of `collect`.
    """
    for live_min in (LIVE_MIN, LIVE_MIN_SHORT, LIVE_MIN_SMALL):
        yield Work(partial(collector.measure, LIVE_MIN_SMALL))
        if collector.garbage_bytes(LIVE_MIN_SMALL) <= garbage_max:
            return
        yield from collect(store, collector, live_min)


def _rewrite(store: Store, collector: Collector, pack: PackId) -> Job[None]:
    """Copy the live chunks of a pack, and delete it with a commit."""
    store.packs.seal(pack)
    chunks, done = collector.live_chunks(pack), False
    while not done:
        result: WriteResult
        with store.writing() as writer:
            result, done = yield Work(partial(collector.copy_live, chunks, writer))
        yield from pausing(store.publish(result))
    # Dead chunks that could not be copied have records that point into this pack.
    yield from pausing(store.reclaimer.remove_dead())
    collector.retire(pack)
    yield Commit()  # deletes the pack, so that there is room to rewrite the next one


def remove_orphan(store: Store, inode: InodeNumber) -> Job[None]:
    """Remove an inode without a name. The caller keeps it from being open or ingested."""
    yield from pausing(store.orphans.remove(inode))


def remove_orphans(store: Store) -> Job[None]:
    """Remove all inodes without a name. The store is not mounted, so none of them is open."""
    for inode in store.orphans.inodes():
        yield from remove_orphan(store, inode)


def collect_unmounted(
    store: Store, collector: Collector, live_min: float = LIVE_MIN
) -> Job[Garbage]:
    """Remove all orphans, none of which is open in an unmounted store; then `collect`."""
    yield from remove_orphans(store)
    return (yield from collect(store, collector, live_min))
