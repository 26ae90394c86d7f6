"""Garbage collection beside the requests: removing what was deleted, and giving its room back."""

from typing import Final

from modelfs.errors import StoreFull
from modelfs.fs.background.context import Context
from modelfs.fs.background.ingest import BackgroundIngest
from modelfs.jobs.gc import job
from modelfs.jobs.gc.collector import LIVE_MIN, LIVE_MIN_SHORT, Collector, Garbage
from modelfs.jobs.hints import all_hints
from modelfs.store.index.tables import InodeNumber

# Garbage below this is not worth rewriting packs for, nor below this part of what is stored.
GARBAGE_MIN: Final = 64 << 20
GARBAGE_PART: Final = 0.1
# While writers have less room than this, garbage is collected soon, and every bit of it.
SHORT_BYTES: Final = 1 << 30
SHORT_PART: Final = 0.05
SHORT_GARBAGE_MIN: Final = 1 << 20


class BackgroundGc:
    """Removes orphans, and collects garbage when it is worth it or room is short."""

    def __init__(self, context: Context, ingest: BackgroundIngest) -> None:
        self._context = context
        self._store = context.store
        self._ingest = ingest
        self._collector = Collector(context.store, all_hints(context.store))
        self._orphans: list[InodeNumber] = []
        self._futile = 0  # bytes of garbage that the last collection left

    def start(self) -> None:
        """Queue what an earlier run of the daemon left to remove."""
        self._orphans.extend(self._store.orphans.inodes())

    def unreachable(self, inode: InodeNumber) -> None:
        """Queue an inode that has no name and that nobody has open any more."""
        self._orphans.append(inode)

    def survey(self) -> Garbage:
        """Return what `collect` would find if room were short."""
        return self._collector.survey(LIVE_MIN_SHORT)

    async def collect(self, live_min: float | None = None) -> Garbage:
        """Remove dead chunks and rewrite sparse packs; return what was found.

        Args:
            live_min: packs are rewritten of which a smaller part is alive; None: by how short
                room is.

        Raises:
            StoreFull, OSError: no room to rewrite some pack, or the disk failed. What could be
                collected is, and nothing is lost.
        """
        await self.remove_orphans()
        if live_min is None:
            live_min = LIVE_MIN_SHORT if self._is_short() else LIVE_MIN
        async with self._context.pack_lock.exclusive():
            collection = job.collect(self._store, self._collector, live_min)
            found = await self._context.driver.run(collection)
        await self._measure()
        return found

    def _is_short(self) -> bool:
        room = self._store.space.room()
        return room.free < min(SHORT_BYTES, SHORT_PART * room.total)

    async def _measure(self) -> None:
        await self._context.driver.call(self._store.space.measure)

    async def remove_orphans(self) -> None:
        """Remove the inodes that nobody can reach any more.

        Raises:
            StoreFull, OSError: a commit on the way failed; what is left is tried again.
        """
        while self._orphans:
            inode = self._orphans.pop()
            try:
                # With the lock, or ingest might put back what was just removed.
                async with self._context.pack_lock.append():
                    self._ingest.forget(inode)
                    await self._context.driver.run(job.remove_orphan(self._store, inode))
            except (StoreFull, OSError):
                self._orphans.append(inode)
                raise

    async def collect_much(self) -> None:
        """Collect, if it is worth it."""
        found = self._collector.survey()
        stored = sum(form["stored_bytes"] for form in self._store.counters.forms().values())
        if found.dead_bytes + found.pack_bytes > max(GARBAGE_MIN, GARBAGE_PART * stored):
            await self.collect()

    async def collect_when_short(self) -> None:
        """Collect at once what can be, if writers have little room left."""
        if self._store.space.limited:
            await self._measure()
        if not self._is_short():
            self._futile = 0
            return
        # What a collection leaves is not tried again until there is more.
        if self.survey().pack_bytes < self._futile + SHORT_GARBAGE_MIN:
            return
        try:
            await self.collect()
        finally:
            self._futile = self.survey().pack_bytes
