"""Defragmentation of a store: measure, plan, copy. The target order is that of `defrag.order`.

A portion of a plan is copied as gc copies: appended again on any thread, then published for the
chunks that did not move meanwhile. Packs that are empty then are deleted with the next commit.
No state is kept between portions: chunks that lie in order are not in the next plan.

Until its old pack is empty or collected, a copied chunk takes its room twice. So the last tenth of
the disk, or 2 GiB, stays free: the job ends there, and a later one goes on when gc has made room.
"""

from typing import Final

from modelfs.jobs.defrag.order import DefragPlan, Fragmentation, measure, plan
from modelfs.jobs.defrag.usage import read_usage
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.tables import ChunkId
from modelfs.store.store import Store

# As a part of the disk, and in bytes: more than the room below which gc hurries (see
# `fs.background.gc`).
ROOM_PART: Final = 0.1
ROOM_MAX: Final = 2 << 30


class Defragmenter:
    """Measures the fragmentation of a store, and copies chunks into order."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def measure(self) -> Fragmentation:
        """Return the runs of each file, and the target order. Costs a walk over the index.

        Any thread.
        """
        return measure(*read_usage(self._store.index))

    def plan(self) -> DefragPlan:
        """Return the chunks worth copying. Costs a walk over the index. Any thread."""
        return plan(self.measure())

    def begin_pack(self) -> None:
        """Seal the newest pack, so that it can become empty by copies to the next one."""
        for pack in sorted(self._store.packs.numbers())[-1:]:
            self._store.packs.seal(pack)

    def has_room(self, portion: DefragPlan) -> bool:
        """Whether enough of the disk stays free beside the copies of a portion. Any thread."""
        self._store.space.measure()
        room = self._store.space.room()
        return room.free - portion.bytes > min(ROOM_MAX, ROOM_PART * room.total)

    def copy(
        self, portion: DefragPlan, writer: ChunkWriter
    ) -> tuple[dict[ChunkId, Chunk], WriteResult]:
        """Append the chunks of a portion again, durably. Any thread.

        Chunks that cannot be read are logged, and stay. Dead and lost ones are left out.

        Returns:
            The records by which chunks were read, and the writer's result.

        Raises:
            OSError: the backing disk is full, or failed at more than reading a chunk.
        """
        copied: dict[ChunkId, Chunk] = {}
        for chunk in map(ChunkId, portion.chunk.tolist()):
            record = self._store.chunks.find(chunk)
            if record is None or not record.alive or record.is_lost:
                continue
            if (stored := self._store.stored_bytes.read_if_intact(chunk, record)) is not None:
                copied[chunk] = record
                writer.copy(chunk, record, stored)
        return copied, writer.finish()
