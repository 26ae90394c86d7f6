"""BackgroundGc: removing what was deleted, and giving its room back."""

from typing import Final

import trio

from modelfs.errors import StoreFull
from modelfs.fs.background.durability import Durability
from modelfs.fs.background.ingest import BackgroundIngest
from modelfs.fs.background.pack_lock import PackLock
from modelfs.jobs.gc.collector import LIVE_MIN, LIVE_MIN_SHORT, Garbage
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.index.tables import InodeNumber, PackId
from modelfs.store.store import Store

# Garbage below this is not worth rewriting packs for, nor below this part of what is stored.
GARBAGE_MIN: Final = 64 << 20
GARBAGE_PART: Final = 0.1
# While writers have less room than this, garbage is collected soon, and every bit of it.
SHORT_BYTES: Final = 1 << 30
SHORT_PART: Final = 0.05
SHORT_GARBAGE_MIN: Final = 1 << 20


async def retire_empty_packs(store: Store, durability: Durability) -> None:
    """Have the packs deleted with the next commit in which nothing is alive.

    In a turn to append, while nobody holds the packs.

    Raises:
        StoreFull, OSError: a commit on the way failed.
    """
    empty = store.collector.empty_packs()
    while empty and store.collector.remove_dead():
        await durability.pause()
    for pack in empty:
        store.seal_pack(pack)
        store.collector.retire(pack)


class BackgroundGc:
    """Removes what nobody can reach, and rewrites packs with little left in them."""

    def __init__(
        self,
        store: Store,
        workers: trio.CapacityLimiter,
        durability: Durability,
        ingesting: BackgroundIngest,
        pack_lock: PackLock,
    ) -> None:
        self._store = store
        self._workers = workers
        self._durability = durability
        self._ingesting = ingesting
        self._pack_lock = pack_lock
        self._doomed: list[InodeNumber] = []
        self._futile = 0  # bytes of garbage that the last collection left

    def start(self) -> None:
        """Queue what an earlier run of the daemon left to remove."""
        self._doomed.extend(self._store.orphans.orphans())

    def unreachable(self, inode: InodeNumber) -> None:
        """Note that nobody can reach an inode any more."""
        self._doomed.append(inode)

    async def collect(self, live_min: float | None = None) -> Garbage:
        """Remove dead chunks and rewrite sparse packs; return what was found.

        Args:
            live_min: packs are rewritten of which a smaller part is alive; None: by how short
                room is.

        Raises:
            StoreFull, OSError: no room to rewrite some pack, or the disk failed. What could be
                collected is, and nothing is lost.
        """
        await self.reap()
        if live_min is None:
            live_min = LIVE_MIN_SHORT if self._is_short() else LIVE_MIN
        async with self._pack_lock.exclusive():
            found = self._store.collector.survey(live_min)
            await self._remove_dead()
            while not self._store.collector.sweep():
                await self._durability.pause()
            await self._durability.commit()
            for pack in self._store.collector.sparse_packs(live_min):
                await self._rewrite(pack)
                # This deletes the pack, and so gives the next one room.
                await self._durability.commit()
        await self._measure()
        return found

    def _is_short(self) -> bool:
        room = self._store.space.room()
        return room.free < min(SHORT_BYTES, SHORT_PART * room.total)

    async def _measure(self) -> None:
        await trio.to_thread.run_sync(self._store.space.measure, limiter=self._workers)

    async def _remove_dead(self) -> None:
        while self._store.collector.remove_dead():
            await self._durability.pause()

    async def _rewrite(self, pack: PackId) -> None:
        self._store.seal_pack(pack)

        def copy(writer: ChunkWriter) -> WriteResult:
            self._store.collector.copy_live(pack, writer)
            return writer.finish()

        with self._store.writing() as writer:
            written = await trio.to_thread.run_sync(copy, writer, limiter=self._workers)
        while not self._store.intake.publish(written):
            await self._durability.pause()
        await self._remove_dead()  # what died meanwhile, and could not be copied
        self._store.collector.retire(pack)

    async def reap(self) -> None:
        """Remove what nobody can reach any more.

        Raises:
            StoreFull, OSError: a commit on the way failed; what is left is tried again.
        """
        while self._doomed:
            inode = self._doomed.pop()
            try:
                async with (
                    self._pack_lock.append()
                ):  # or ingest might put back what was just removed
                    await self._reap_one(inode)
            except (StoreFull, OSError):
                self._doomed.append(inode)
                raise

    async def _reap_one(self, inode: InodeNumber) -> None:
        self._ingesting.forget(inode)
        while not self._store.orphans.reap(inode):
            await self._durability.pause()

    async def collect_much(self) -> None:
        """Collect, if it is worth it."""
        found = self._store.collector.survey()
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
        if self._garbage() < self._futile + SHORT_GARBAGE_MIN:
            return
        try:
            await self.collect()
        finally:
            self._futile = self._garbage()

    def _garbage(self) -> int:
        return self._store.collector.survey(LIVE_MIN_SHORT).pack_bytes
