"""Garbage collection beside the requests: deleted content is removed, and its room freed.

Example. A store of 100 GB gets a new version of a 14 GB model, and the old one is deleted. Its
inode becomes an orphan, and is removed within a second: 14 GB are garbage in the packs. Within a
minute the survey finds more garbage than a tenth of the store, and sparse packs are rewritten.
"""

from functools import partial
from typing import Final

from modelfs.errors import StoreFull
from modelfs.fs.background.context import Context
from modelfs.fs.background.ingest import BackgroundIngest
from modelfs.jobs.gc import job
from modelfs.jobs.gc.collector import LIVE_MIN, LIVE_MIN_SHORT, LIVE_MIN_SMALL, Collector, Garbage
from modelfs.jobs.hints import all_hints
from modelfs.store.index.tables import InodeNumber

# Packs are rewritten only for more garbage than this many bytes and this part of the stored bytes.
GARBAGE_MIN: Final = 64 << 20
GARBAGE_PART: Final = 0.1
# Room is short when writers have less than this. Then garbage is collected at once, and in smaller
# amounts.
SHORT_BYTES: Final = 1 << 30
SHORT_PART: Final = 0.05
SHORT_GARBAGE_MIN: Final = 1 << 20


class BackgroundGc:
    """Removes orphans, and collects garbage when that is worth it or room is short."""

    def __init__(self, context: Context, ingest: BackgroundIngest) -> None:
        self._context = context
        self._store = context.store
        self._ingest = ingest
        self._collector = Collector(context.store, all_hints(context.store))
        self._orphans: list[InodeNumber] = []
        self._uncollectable = 0  # bytes of garbage that the last collection for room left

    def start(self) -> None:
        """Queue the orphans of an earlier run of the daemon."""
        self._orphans.extend(self._store.orphans.inodes())

    def add_orphan(self, inode: InodeNumber) -> None:
        """Queue an inode that has no name, and that no program can reach any more."""
        self._orphans.append(inode)

    def survey(self) -> Garbage:
        """Return the garbage that `collect` would find if room were short."""
        return self._collector.survey(LIVE_MIN_SHORT)

    async def measured(self) -> Garbage:
        """Return the garbage that the gc command would find; reads segment tables."""
        await self._context.driver.call(partial(self._collector.measure, LIVE_MIN_SMALL))
        return self._collector.survey(LIVE_MIN_SMALL)

    async def collect(self, live_min: float | None = None) -> Garbage:
        """Remove dead chunks and rewrite sparse packs; return the garbage that was found.

        Args:
            live_min: packs with a smaller part of live bytes are rewritten; None: it depends on
                how short room is.

        Raises:
            StoreFull, OSError: no room to rewrite a pack, or the disk failed. All other garbage is
                collected, and nothing is lost.
        """
        await self.remove_orphans()
        if live_min is None:
            live_min = LIVE_MIN_SHORT if self._is_short() else LIVE_MIN
        async with self._context.pack_lock.exclusive():
            collection = job.collect(self._store, self._collector, live_min)
            garbage = await self._context.driver.run(collection)
        await self._measure()
        return garbage

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
        """Collect if there is much garbage."""
        garbage = self._collector.survey()
        stored = sum(form["stored_bytes"] for form in self._store.counters.forms().values())
        if garbage.dead_bytes + garbage.pack_bytes > max(GARBAGE_MIN, GARBAGE_PART * stored):
            await self.collect()

    async def collect_if_short(self) -> None:
        """Collect if writers have little room left."""
        if self._store.space.limited:
            await self._measure()
        if not self._is_short():
            self._uncollectable = 0
            return
        # The garbage that a collection left is not tried again until there is more of it.
        if self.survey().pack_bytes < self._uncollectable + SHORT_GARBAGE_MIN:
            return
        try:
            await self.collect()
        finally:
            self._uncollectable = self.survey().pack_bytes
