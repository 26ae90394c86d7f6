"""Rewriting packs so that files are read in long stretches: see `store.packing` for which, and why.

A portion of the plan has three parts, as gc has them: `copy` (any thread) appends the chunks once
more, the owner takes that into the index unless they were moved meanwhile, and packs in which
nothing is left go after the commit that says so. Nothing is to be remembered between portions: what
lies in order is not in the next plan.

Until its pack is empty or collected, what was copied takes its room twice. So the last tenth of the
disk, or 2 GiB, is left alone: whoever comes to that stops, and goes on when gc has made room.
"""

import errno
import logging
from typing import Final

from modelfs.errors import CorruptChunk
from modelfs.jobs.defrag.order import DefragPlan, Survey, plan, survey
from modelfs.jobs.defrag.survey import read_usage
from modelfs.store.chunks.table import Chunks
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.disk.space import Space
from modelfs.store.index.index import Index
from modelfs.store.index.records import Chunk
from modelfs.store.index.tables import ChunkId
from modelfs.store.packs.pack import Packs

log = logging.getLogger(__name__)

# Of the disk, and in bytes: more than what makes gc hurry (see `fs.collecting`).
ROOM_PART: Final = 0.1
ROOM_MAX: Final = 2 << 30


class Defragmenter:
    """Surveys how chunks lie, and copies them to where they ought to."""

    def __init__(self, index: Index, chunks: Chunks, packs: Packs, space: Space) -> None:
        self._index = index
        self._chunks = chunks
        self._packs = packs
        self._space = space

    def survey(self) -> Survey:
        """Return how well the chunks lie. Costs a walk over the index. Any thread."""
        return survey(*read_usage(self._index))

    def plan(self) -> DefragPlan:
        """Return what is worth copying. Costs the same. Any thread."""
        return plan(self.survey())

    def begin_pack(self) -> None:
        """Let copies begin a new pack, so that the one before can become empty."""
        for pack in sorted(self._packs.numbers())[-1:]:
            self._packs.seal(pack)

    def has_room(self, portion: DefragPlan) -> bool:
        """Whether the disk has enough room left beside a portion. Any thread."""
        self._space.measure()
        room = self._space.room()
        return room.free - portion.bytes > min(ROOM_MAX, ROOM_PART * room.total)

    def copy(self, portion: DefragPlan, writer: ChunkWriter) -> dict[ChunkId, Chunk]:
        """Append chunks once more, and return the records that they were copied by. Any thread.

        What cannot be read stays where it is.

        Raises:
            OSError: the backing disk is full, or failed at more than reading a chunk.
        """
        copied: dict[ChunkId, Chunk] = {}
        for chunk in map(ChunkId, portion.chunk.tolist()):
            record = self._chunks.find(chunk)
            if record is None or not record.alive or record.is_lost:
                continue
            if (stored := self._readable(chunk, record)) is not None:
                copied[chunk] = record
                writer.copy(chunk, record, stored)
        return copied

    def _readable(self, chunk: ChunkId, record: Chunk) -> bytes | None:
        try:
            return self._chunks.stored_bytes(chunk, record)
        except CorruptChunk as exc:
            log.error("it is not moved: %s", exc)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            log.error("chunk %d is not moved: %s", chunk, exc)
        return None

    def admits(self, copied: dict[ChunkId, Chunk], chunk: ChunkId) -> bool:
        """Whether a chunk still is what was copied."""
        now, then = self._chunks.find(chunk), copied[chunk]
        return now is not None and (now.pack, now.offset) == (then.pack, then.offset)
