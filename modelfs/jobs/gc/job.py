"""Garbage collection, as jobs."""

from functools import partial

from modelfs.jobs.gc.collector import LIVE_MIN, Collector, Garbage
from modelfs.jobs.steps import Commit, Job, Work, pausing
from modelfs.store.chunks.writer import WriteResult
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store


def collect(store: Store, collector: Collector, live_min: float = LIVE_MIN) -> Job[Garbage]:
    """Remove dead chunks, drop stale hints, and rewrite sparse packs.

    The caller holds off other writers of packs, and readers that need packs to stay.

    Args:
        store: the store.
        collector: of that store.
        live_min: packs are sparse if their live chunks would take a smaller part of them.

    Returns:
        The garbage that there was at the beginning.

    Raises:
        StoreFull: no room to rewrite some pack; the collection is complete up to that pack.
        OSError: the disk failed; nothing is lost.
    """
    yield Work(partial(collector.measure, live_min))
    garbage = collector.survey(live_min)
    yield from pausing(store.reclaimer.remove_dead())
    yield from pausing(collector.drop_stale_hints())
    yield Commit()
    for pack in collector.sparse_packs(live_min):
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
    return garbage


def remove_orphan(store: Store, inode: InodeNumber) -> Job[None]:
    """Remove an inode without a name. The caller keeps it from being open or ingested."""
    yield from pausing(store.orphans.remove(inode))


def collect_unmounted(
    store: Store, collector: Collector, live_min: float = LIVE_MIN
) -> Job[Garbage]:
    """Remove all orphans, none of which is open in an unmounted store; then `collect`."""
    for inode in store.orphans.inodes():
        yield from remove_orphan(store, inode)
    return (yield from collect(store, collector, live_min))
