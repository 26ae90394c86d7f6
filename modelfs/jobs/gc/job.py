"""Garbage collection, as jobs."""

import dataclasses
import logging
from collections.abc import Callable, Iterable
from functools import partial

from modelfs.errors import ModelfsError, StoreFull
from modelfs.jobs.gc.collector import (
    LIVE_MIN,
    LIVE_MIN_SHORT,
    LIVE_MIN_SMALL,
    Collector,
    Garbage,
    PackSegments,
    Portion,
)
from modelfs.jobs.steps import Commit, Job, Work, appending, exclusive, pausing, unless_pinned
from modelfs.store.chunks.writer import WriteResult
from modelfs.store.index.tables import InodeNumber, PackId
from modelfs.store.store import Store

log = logging.getLogger(__name__)


def collect(
    store: Store,
    collector: Collector,
    live_min: float = LIVE_MIN,
    enough: Callable[[], bool] = lambda: False,
) -> Job[Garbage]:
    """Remove dead chunks, drop stale hints, and rewrite sparse packs, with no reader of packs.

    Args:
        store: the store.
        collector: of that store.
        live_min: packs are sparse if their live chunks would take a smaller part of them.
        enough: whether enough room is free, so that no other pack needs to be rewritten.

    Returns:
        The dead chunks that there were at the beginning, the packs that were rewritten, and the
        bytes by which all packs together became smaller.

    Raises:
        StoreFull: no room to rewrite some pack; all others are rewritten.
        OSError: the disk failed; nothing is lost.
    """
    return exclusive(_collect(store, collector, live_min, enough, with_hints=True))


def _collect(
    store: Store,
    collector: Collector,
    live_min: float,
    enough: Callable[[], bool] = lambda: False,
    *,
    with_hints: bool,
) -> Job[Garbage]:
    garbage: Garbage = yield Work(partial(collector.measured, live_min))
    before = collector.pack_bytes()
    yield from pausing(store.reclaimer.remove_dead())
    if with_hints:
        yield from pausing(collector.drop_stale_hints())
    yield Commit()
    rewritten, failure = 0, None
    for pack in collector.sparse_packs(live_min):
        if enough():
            break
        try:
            yield from _rewrite(store, collector, pack)
            rewritten += 1
        except StoreFull as exc:
            failure = exc  # another pack may have a shorter end
    if failure is not None:
        raise failure
    freed = max(0, before - collector.pack_bytes())
    return dataclasses.replace(garbage, packs=rewritten, pack_bytes=freed)


def collect_above(store: Store, collector: Collector, garbage_max: int) -> Job[None]:
    """Collect until no more than so many bytes of packs are garbage, sparsest packs first.

    Stale hints stay: to look at all of them takes longer than to copy a pack. While a reader needs
    packs to stay, nothing is collected. Raises as `collect` does.
    """
    # Packs that were never measured seem to have more garbage than they have.
    if collector.garbage_bytes(LIVE_MIN_SMALL) > garbage_max:
        yield from unless_pinned(_collect_above(store, collector, garbage_max))


def _collect_above(store: Store, collector: Collector, garbage_max: int) -> Job[None]:
    for live_min in (LIVE_MIN, LIVE_MIN_SHORT, LIVE_MIN_SMALL):
        yield Work(partial(collector.measure, LIVE_MIN_SMALL))
        if collector.garbage_bytes(LIVE_MIN_SMALL) <= garbage_max:
            return
        yield from _collect(store, collector, live_min, with_hints=False)


def _rewrite(store: Store, collector: Collector, pack: PackId) -> Job[None]:
    """Copy the live chunks of a pack, from its end on, and delete it.

    With room for all of them that is one portion and one commit. With less, the pack becomes
    shorter with each commit, and that makes the room for the next portion.

    Raises:
        StoreFull: no room for the last segment that is left of it.
    """
    store.packs.seal(pack)
    segments: PackSegments = yield Work(partial(collector.segments, pack))
    share = 1.0
    while True:
        size_max = int(share * store.space.gc_bytes)
        portion: Portion = yield Work(partial(collector.portion, segments, size_max))
        try:
            with store.writing(for_gc=True) as writer:
                result: WriteResult = yield Work(partial(collector.copy, portion, writer))
        except StoreFull:
            if portion.segments == 1:
                raise
            share /= 2
            continue
        yield from pausing(store.publish(result))
        # Dead chunks that could not be copied have records that point into this pack.
        yield from pausing(store.reclaimer.remove_dead())
        is_last = portion.segments == len(segments.starts)
        has_chunks = False
        if not is_last or store.reclaimer.passed:  # else no live chunk is no chunk
            has_chunks = yield Work(partial(collector.has_chunks, segments, portion))
        if is_last:
            collector.retire(pack, is_empty=not has_chunks)
            yield Commit()  # deletes the pack, so that there is room to rewrite the next one
            return
        if not collector.cut(segments, portion, has_chunks=has_chunks):
            return
        yield Commit()
        yield Work(store.space.measure)


class OrphanQueue:
    """Inodes without a name that no program has open, until they are removed."""

    def __init__(
        self,
        store: Store,
        inodes: Iterable[InodeNumber] = (),
        before_removal: Callable[[InodeNumber], None] = lambda _: None,
    ) -> None:
        """Begin with some inodes; `before_removal` is called for each when no ingest is at it."""
        self._store = store
        self._inodes = dict.fromkeys(inodes)  # in the order in which they came
        self._before_removal = before_removal

    def add(self, inodes: Iterable[InodeNumber]) -> None:
        """Queue inodes that no program can reach any more."""
        self._inodes.update(dict.fromkeys(inodes))

    def remove(self) -> Job[None]:
        """Remove all inodes of the queue, each of which leaves it when its removal is done.

        So an inode is still queued if the job is cancelled, in the middle of its removal, too. One
        with a damaged row leaves the queue, and the next open of the store finds it again.

        Raises:
            StoreFull, OSError: a commit on the way failed; the inodes that are left are queued.
        """
        while self._inodes:
            inode = next(iter(self._inodes))
            try:
                # With the right to append, as ingest would add extents of the inode meanwhile.
                yield from appending(self._removal(inode))
            except (StoreFull, OSError):
                raise  # it stays in the queue
            except Exception as exc:
                self._inodes.pop(inode, None)  # as its removal would fail each time
                if not isinstance(exc, ModelfsError):
                    raise  # a bug
                log.error(
                    "cannot remove a deleted file (inode %d), left to the next mount: %s",
                    inode,
                    exc,
                )

    def _removal(self, inode: InodeNumber) -> Job[None]:
        if inode not in self._inodes:
            return  # another job, which had the right before, has removed it
        self._before_removal(inode)
        yield from pausing(self._store.orphans.remove(inode))
        self._inodes.pop(inode, None)
