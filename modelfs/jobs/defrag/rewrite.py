"""Rewriting packs so that files are read in long stretches: see `jobs.defrag.order` for the order.

A portion of the plan is copied as gc copies: appended once more on any thread, then published where
nothing moved the chunks meanwhile; packs in which nothing is left go with the commit that says so.
Nothing is remembered between portions: chunks that lie in order are not in the next plan.

Until its pack is empty or collected, a copied chunk takes its room twice. So the last tenth of the
disk, or 2 GiB, is left alone: the job stops there, and goes on when gc has made room.
"""

from typing import Final

from modelfs.jobs.defrag.order import DefragPlan, Survey, plan, survey
from modelfs.jobs.defrag.survey import read_usage
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.index.records import Chunk
from modelfs.store.index.tables import ChunkId
from modelfs.store.store import Store

# Of the disk, and in bytes: more than what makes gc hurry (see `fs.background.gc`).
ROOM_PART: Final = 0.1
ROOM_MAX: Final = 2 << 30


class Defragmenter:
    """Surveys how chunks lie, and copies them to where they ought to."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def survey(self) -> Survey:
        """Return how well the chunks lie. Costs a walk over the index. Any thread."""
        return survey(*read_usage(self._store.index))

    def plan(self) -> DefragPlan:
        """Return what is worth copying. Costs the same. Any thread."""
        return plan(self.survey())

    def begin_pack(self) -> None:
        """Let copies begin a new pack, so that the one before can become empty."""
        for pack in sorted(self._store.packs.numbers())[-1:]:
            self._store.packs.seal(pack)

    def has_room(self, portion: DefragPlan) -> bool:
        """Whether the disk has enough room left beside a portion. Any thread."""
        self._store.space.measure()
        room = self._store.space.room()
        return room.free - portion.bytes > min(ROOM_MAX, ROOM_PART * room.total)

    def copy(self, portion: DefragPlan, writer: ChunkWriter) -> dict[ChunkId, Chunk]:
        """Append chunks once more, and return the records that they were copied by. Any thread.

        What cannot be read stays where it is.

        Raises:
            OSError: the backing disk is full, or failed at more than reading a chunk.
        """
        copied: dict[ChunkId, Chunk] = {}
        for chunk in map(ChunkId, portion.chunk.tolist()):
            record = self._store.chunks.find(chunk)
            if record is None or not record.alive or record.is_lost:
                continue
            if (stored := self._store.chunk_reader.readable_bytes(chunk, record)) is not None:
                copied[chunk] = record
                writer.copy(chunk, record, stored)
        return copied
