"""Garbage collection beside the requests: deleted content is removed, and its room freed.

Every `COLLECT_SECONDS` the garbage is measured and collected. A rewrite copies the live bytes of a
pack. So which packs are rewritten depends on their live part, on whether programs use the store at
the moment, and on how short room is. Chunks that only derived chunks need are garbage, too: their
dependants are encoded without them first.

Example. A store of 100 GB gets a new version of a 14 GB model, and the old one is deleted. Its
inode becomes an orphan, and is removed within a second: 14 GB are garbage in the packs. Within a
minute sparse packs are rewritten. If fine-tunes derive from the old version, one of them becomes
the base of the others before that.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from modelfs.errors import StoreFull
from modelfs.fs.background.context import Context
from modelfs.fs.background.ingest import BackgroundIngest
from modelfs.jobs.gc import job
from modelfs.jobs.gc.collector import (
    LIVE_MIN,
    LIVE_MIN_BUSY,
    LIVE_MIN_IDLE,
    LIVE_MIN_SHORT,
    LIVE_MIN_SMALL,
    Collector,
    Garbage,
)
from modelfs.jobs.hints import all_hints
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.job import Optimizer
from modelfs.store.index.tables import InodeNumber

# Less garbage than this is not worth a collection.
GARBAGE_MIN: Final = 1 << 20
# The store is idle if no program used an open file for so long.
IDLE_SECONDS: Final = 5.0
# Room is short when writers have less than this. Then garbage is collected at once, and in smaller
# amounts.
SHORT_BYTES: Final = 1 << 30
SHORT_PART: Final = 0.05
SHORT_GARBAGE_MIN: Final = 1 << 20
# df(1) shows the garbage as free; it is looked at again after so many seconds.
SURVEY_SECONDS: Final = 1.0


class BackgroundGc:
    """Removes orphans, and collects garbage when that is worth it or room is short."""

    def __init__(self, context: Context, ingest: BackgroundIngest) -> None:
        self._context = context
        self._store = context.store
        self._ingest = ingest
        self._collector = Collector(context.store, all_hints(context.store))
        self._shown = 0  # bytes of garbage at the last survey for df(1)
        self._surveyed_at = -SURVEY_SECONDS  # monotonic seconds
        self._orphans: list[InodeNumber] = []
        self._uncollectable = 0  # bytes of garbage that the last collection for room left

    def start(self) -> None:
        """Queue the orphans of an earlier run of the daemon."""
        self._orphans.extend(self._store.orphans.inodes())

    def add_orphan(self, inode: InodeNumber) -> None:
        """Queue an inode that has no name, and that no program can reach any more."""
        self._orphans.append(inode)

    async def survey(self, live_min: float = LIVE_MIN_SMALL) -> Garbage:
        """Return the garbage that `collect` would find; reads segment tables of packs."""
        return await self._context.driver.call(lambda: self._measured(live_min))

    def _measured(self, live_min: float) -> Garbage:
        self._collector.measure(live_min)
        return self._collector.survey(live_min)

    async def shown_bytes(self) -> int:
        """Return how many bytes a collection would free, about, for df(1)."""
        if time.monotonic() - self._surveyed_at > SURVEY_SECONDS:
            self._surveyed_at = time.monotonic()
            garbage = await self._context.driver.call(
                lambda: self._collector.survey(LIVE_MIN_SHORT)
            )
            self._shown = garbage.freed_bytes
        return self._shown

    async def collect(
        self, live_min: float = LIVE_MIN, enough: Callable[[], bool] = lambda: False
    ) -> Garbage:
        """Remove dead and base-only chunks and rewrite sparse packs.

        Args:
            live_min: packs with a smaller part of live bytes are rewritten.
            enough: whether enough room is free, so that no other pack needs to be rewritten.

        Returns:
            The chunks that were garbage, and the bytes by which the packs became smaller.

        Raises:
            StoreFull, OSError: no room to rewrite a pack, or the disk failed. All other garbage is
                collected, and nothing is lost.
        """
        await self.remove_orphans()
        bases = await self.survey(live_min)
        before = self._collector.pack_bytes()
        if bases.base_only_chunks:
            # First without them, which makes the room that the new forms need.
            await self._collect(live_min, enough)
            await self._free_bases()
        garbage = await self._collect(live_min, enough)
        await self._measure()
        return replace(
            garbage,
            dead_chunks=bases.dead_chunks,
            dead_bytes=bases.dead_bytes,
            pack_bytes=max(0, before - self._collector.pack_bytes()),
            base_only_chunks=bases.base_only_chunks,
            base_only_bytes=0,  # they are among those of the packs
        )

    async def _collect(self, live_min: float, enough: Callable[[], bool]) -> Garbage:
        async with self._context.pack_lock.exclusive():
            collection = job.collect(self._store, self._collector, live_min, enough)
            return await self._context.driver.run(collection)

    async def collect_above(self, garbage_max: int) -> None:
        """Collect if more than so many bytes of packs are garbage; not while packs are pinned.

        Raises:
            StoreFull, OSError: as `collect`.
        """
        if self._context.pack_lock.is_pinned or self._collector.garbage_bytes() <= garbage_max // 2:
            return
        async with self._context.pack_lock.exclusive():
            collection = job.collect_above(self._store, self._collector, garbage_max)
            await self._context.driver.run(collection)

    async def _free_bases(self) -> None:
        """Encode the chunks that derive from base-only ones without these, a batch at a time."""
        optimizer = Optimizer(self._store, Backlog(self._store), 1)
        try:
            while True:
                async with self._context.pack_lock.append():
                    result = await self._context.driver.run(optimizer.free_bases())
                if result is None:
                    return
        finally:
            optimizer.close()

    def _is_short(self) -> bool:
        room = self._store.space.room()
        return room.free < min(SHORT_BYTES, SHORT_PART * room.total)

    async def _measure(self) -> None:
        await self._context.driver.call(self._store.space.measure)

    async def remove_orphans(self) -> None:
        """Remove the queued orphans.

        Raises:
            StoreFull, OSError: a commit on the way failed; the other orphans are still queued.
        """
        while self._orphans:
            inode = self._orphans.pop()
            try:
                # The lock keeps ingest from adding extents of an inode that is being removed.
                async with self._context.pack_lock.append():
                    self._ingest.forget(inode)
                    await self._context.driver.run(job.remove_orphan(self._store, inode))
            except (StoreFull, OSError):
                self._orphans.append(inode)
                raise

    async def collect_if_worthwhile(self) -> None:
        """Collect if there is garbage that is worth the work at the moment."""
        is_idle = self._context.handles.idle_seconds() > IDLE_SECONDS
        live_min = LIVE_MIN_IDLE if is_idle else LIVE_MIN_BUSY
        if self._is_short():
            live_min = max(live_min, LIVE_MIN_SHORT)
        if (await self.survey(live_min)).freed_bytes >= GARBAGE_MIN:
            await self.collect(live_min)

    async def collect_if_short(self) -> None:
        """Collect if writers have little room left."""
        if self._store.space.may_have_changed:
            await self._measure()
        if not self._is_short():
            self._uncollectable = 0
            return
        # The garbage that a collection left is not tried again until there is more of it.
        garbage = (await self.survey(LIVE_MIN_SHORT)).freed_bytes
        if garbage < self._uncollectable + SHORT_GARBAGE_MIN:
            return
        try:
            await self.collect(LIVE_MIN_SHORT)
        finally:
            self._uncollectable = (await self.survey(LIVE_MIN_SHORT)).freed_bytes

    async def collect_for_room(self, enough: Callable[[], bool]) -> None:
        """Collect for a request that waits, until there is enough room; not while packs are pinned.

        Raises:
            StoreFull, OSError: as `collect`.
        """
        if self._context.pack_lock.is_pinned:
            return
        for live_min in (LIVE_MIN_SHORT, LIVE_MIN_SMALL):
            if not enough() and (await self.survey(live_min)).freed_bytes >= GARBAGE_MIN:
                await self.collect(live_min, enough)
