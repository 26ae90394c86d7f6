"""Collecting garbage, as jobs."""

from functools import partial

from modelfs.jobs.gc.collector import LIVE_MIN, Collector, Garbage
from modelfs.jobs.steps import Commit, Job, Work, pausing
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.index.tables import InodeNumber, PackId
from modelfs.store.store import Store


def collect(store: Store, collector: Collector, live_min: float = LIVE_MIN) -> Job[Garbage]:
    """Remove dead chunks, drop stale hints, and rewrite sparse packs; returns what was found.

    Nobody else may append to packs meanwhile, and nobody may rely on a pack to stay.

    Args:
        store: the store.
        collector: of that store.
        live_min: packs are rewritten of which a smaller part is alive.

    Raises:
        StoreFull: no room to rewrite some pack. What could be collected is.
        OSError: the disk failed; nothing is lost.
    """
    found = collector.survey(live_min)
    yield from pausing(store.reclaimer.remove_dead())
    yield from pausing(collector.drop_stale_hints())
    yield Commit()
    for pack in collector.sparse_packs(live_min):
        yield from _rewrite(store, collector, pack)
        yield Commit()  # deletes the pack, and so gives the next one room
    return found


def _rewrite(store: Store, collector: Collector, pack: PackId) -> Job[None]:
    store.packs.seal(pack)
    with store.writing() as writer:
        result = yield Work(partial(_copy, collector, pack, writer))
    yield from pausing(store.publish(result))
    yield from pausing(store.reclaimer.remove_dead())  # died meanwhile, and was not copied
    collector.retire(pack)


def _copy(collector: Collector, pack: PackId, writer: ChunkWriter) -> WriteResult:
    collector.copy_live(pack, writer)
    return writer.finish()


def remove_orphan(store: Store, inode: InodeNumber) -> Job[None]:
    """Remove an inode without a name that nobody has open. Nobody may ingest it meanwhile."""
    yield from pausing(store.orphans.remove(inode))


def collect_unmounted(
    store: Store, collector: Collector, live_min: float = LIVE_MIN
) -> Job[Garbage]:
    """Collect what `collect` does, and all inodes without a name: nobody has them open."""
    for inode in store.orphans.inodes():
        yield from remove_orphan(store, inode)
    return (yield from collect(store, collector, live_min))
