"""Bringing the chunks of scattered files together in a mounted store: see `store.packing`."""

from collections.abc import Iterator
from functools import partial

import trio

from modelfs.fs.background.durability import Durability
from modelfs.fs.background.gc import retire_empty_packs
from modelfs.fs.background.pack_lock import PackLock
from modelfs.jobs.defrag.order import DefragPlan as Portion
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.index.records import Chunk
from modelfs.store.index.tables import ChunkId
from modelfs.store.store import Store


class BackgroundDefrag:
    """Does one portion at a time; there is nothing to remember in between."""

    def __init__(
        self,
        store: Store,
        workers: trio.CapacityLimiter,
        durability: Durability,
        pack_lock: PackLock,
    ) -> None:
        self._store = store
        self._run = partial(trio.to_thread.run_sync, limiter=workers)
        self._durability = durability
        self._pack_lock = pack_lock
        self._portions: Iterator[Portion] | None = None
        self.done = 0  # bytes
        self.total = 0

    def drop(self) -> None:
        """Forget the plan, because the store goes on to change."""
        self._portions = None
        self.done = self.total = 0

    async def advance(self) -> bool:
        """Copy a portion, after making a plan if there is none; say whether there was one.

        Raises:
            StoreFull, OSError: it could not be copied; nothing is lost.
        """
        if self._portions is None:
            packing = await self._run(self._store.packer.plan)
            self._portions, self.total = packing.portions(), packing.bytes
        portion = next(self._portions, None)
        if portion is None or not await self._run(self._store.packer.has_room, portion):
            self.drop()
            return False
        # Packs are deleted at the end, so nobody may hold them.
        async with self._pack_lock.exclusive():
            if not self.done:
                self._store.packer.begin_pack()
            self.done += await self._copy(portion)
            await retire_empty_packs(self._store, self._durability)
            await self._durability.commit()
        return True

    async def _copy(self, portion: Portion) -> int:
        def copy(writer: ChunkWriter) -> tuple[dict[ChunkId, Chunk], WriteResult]:
            return self._store.packer.copy(portion, writer), writer.finish()

        with self._store.writing() as writer:
            copied, written = await self._run(copy, writer)

        def admits(chunk: ChunkId, _: Chunk) -> bool:
            return self._store.packer.admits(copied, chunk)

        while not self._store.intake.publish(written, admits):
            await self._durability.pause()
        return sum(record.stored for record in copied.values())
