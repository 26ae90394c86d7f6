"""Garbage collection: dead chunks lose their records, and packs with little left are rewritten.

A chunk is dead if no file uses it and no other derives from it. One that is only derived from is
held, and stays: to write anew what derives from it is the optimizer's part. With a chunk's record
go its claims on what it derives from, which may so die in turn.

A pack is immutable, so the room of a dead chunk comes back when its pack goes: at once if nothing
in it is alive, otherwise after its live chunks were copied to the newest pack. A copy is checked
against its checksum on the way; a pack with a chunk that cannot be read is left as it is. Files are
deleted after the commit that no longer mentions them.
"""

import errno
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from modelfs.errors import CorruptChunk, CorruptPack
from modelfs.jobs.ingest.copies import CopyHints
from modelfs.jobs.ingest.external_data import ExternalData
from modelfs.jobs.optimize.similarity import SimilarityIndex
from modelfs.store.chunks.table import Chunks
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.index.counters import DEAD_BYTES, DEAD_CHUNKS, Counters
from modelfs.store.index.index import KEY_END, Index
from modelfs.store.index.records import Chunk, PackRow
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key, number_of
from modelfs.store.packs.pack import Packs
from modelfs.store.packs.segment import PAGE

log = logging.getLogger(__name__)

# Rewriting a pack costs what is alive in it and gains the rest: at one half, both are the same.
LIVE_MIN: Final = 0.5
# When room is short, any gain is worth a rewrite that there is room for.
LIVE_MIN_SHORT: Final = 0.85
# Who asks for a store to be made small waits for it: a third of a second for each pack, which gives
# back 4 MB or more.
LIVE_MIN_SMALL: Final = 0.985
SLICE: Final = 250


@dataclass(frozen=True, slots=True)
class Garbage:
    """What gc found, or would: numbers of things, and the bytes they take."""

    dead_chunks: int
    dead_bytes: int
    packs: int
    pack_bytes: int


class Collector:
    """Finds and removes garbage, in slices."""

    def __init__(
        self,
        index: Index,
        chunks: Chunks,
        packs: Packs,
        hints: tuple[ExternalData, CopyHints, SimilarityIndex],
    ) -> None:
        self._index = index
        self._counters = Counters(index)
        self._chunks = chunks
        self._packs = packs
        self._hints = hints
        self._removed = b""  # up to which key dead chunks were removed, while that is under way
        self._sweeping = 0  # which hints a sweep is at, and from which key on it goes on
        self._swept = b""
        self._doomed: list[PackId] = []
        self._unreadable: set[PackId] = set()

    def survey(self, live_min: float = LIVE_MIN) -> Garbage:
        """Return what there is to collect. Costs a walk over the packs.

        Args:
            live_min: packs are to be rewritten of which a smaller part is alive.
        """
        rows = [row for _, row in self._rows() if _is_sparse(row, live_min)]
        gain = sum(row.stop - row.live for row in rows)
        counters = self._counters
        return Garbage(counters.get(DEAD_CHUNKS), counters.get(DEAD_BYTES), len(rows), gain)

    def remove_dead(self) -> int:
        """Remove the records of a slice of dead chunks, and return how many: 0 if none is left."""
        # Each slice goes on where the last one ended: see `FileMaps.trim`. But with a chunk, what
        # it derives from may die, which is often behind that.
        rows = self._index.scan(Table.DEAD, self._removed, KEY_END, SLICE)
        if not rows and self._removed:
            rows = self._index.scan(Table.DEAD, b"", KEY_END, SLICE)
        removed = changed = 0
        with self._index.change():
            for key, _ in rows:
                changed += 1 + self._chunks.remove(ChunkId(number_of(key)))
                removed += 1
                if changed >= SLICE:
                    break
        self._removed = rows[removed - 1][0] + b"\0" if changed >= SLICE else b""
        return removed

    def sweep(self) -> bool:
        """Drop a slice of the hints about files that are gone; say whether that is all."""
        hint = self._hints[self._sweeping]
        rows = self._index.scan(hint.TABLE, self._swept, KEY_END, SLICE)
        with self._index.change():
            for key, _ in rows:
                if hint.is_stale(key):
                    self._index.delete(hint.TABLE, key)
        if len(rows) == SLICE:
            self._swept = rows[-1][0] + b"\0"
            return False
        self._swept = b""
        self._sweeping = (self._sweeping + 1) % len(self._hints)
        return self._sweeping == 0

    def sparse_packs(self, live_min: float = LIVE_MIN) -> list[PackId]:
        """Return the packs worth rewriting, those that need least room for it first."""
        rows = [(row.live, pack) for pack, row in self._rows() if _is_sparse(row, live_min)]
        return [pack for _, pack in sorted(rows) if pack not in self._unreadable]

    def empty_packs(self) -> list[PackId]:
        """Return the packs in which nothing is alive."""
        return [pack for pack, row in self._rows() if not row.live and pack not in self._unreadable]

    def copy_live(self, pack: PackId, writer: ChunkWriter) -> None:
        """Append the live chunks of a pack to another. Any thread.

        Raises:
            OSError: the backing disk is full, or failed at more than reading a chunk.
        """
        for chunk, record in self._live(pack):
            if (stored := self._readable(chunk, record)) is not None:
                writer.copy(chunk, record, stored)

    def _readable(self, chunk: ChunkId, record: Chunk) -> bytes | None:
        try:
            return self._chunks.stored_bytes(chunk, record)
        except CorruptChunk as exc:
            log.error("pack %d is kept: %s", record.pack, exc)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            log.error("pack %d is kept: %s", record.pack, exc)
        return None

    def retire(self, pack: PackId) -> int:
        """Forget a pack that nothing lies in any more, and return its size in bytes."""
        row = self._chunks.pack_row(pack)
        if row.live:
            self._unreadable.add(pack)
            return 0
        while self.remove_dead():
            pass  # what died meanwhile, and could not be copied
        with self._index.change():
            self._index.delete(Table.PACKS, number_key(pack))
        self._doomed.append(pack)
        return row.stop

    def doomed(self) -> list[PackId]:
        """Hand over the packs to delete once all changes made so far are durable."""
        doomed, self._doomed = self._doomed, []
        return doomed

    def doom(self, packs: list[PackId]) -> None:
        """Take packs back that `doomed` handed over, because the commit failed."""
        self._doomed.extend(packs)

    def _rows(self) -> Iterator[tuple[PackId, PackRow]]:
        for key, value in self._index.pages(Table.PACKS):
            yield PackId(number_of(key)), PackRow.from_bytes(value)

    def _live(self, pack: PackId) -> Iterator[tuple[ChunkId, Chunk]]:
        try:
            for entry in self._packs.entries(pack, self._chunks.pack_row(pack).stop):
                record = self._chunks.find(entry.chunk)
                if record is not None and (record.pack, record.offset) == (pack, entry.offset):
                    yield entry.chunk, record
        except CorruptPack as exc:
            log.error("pack %d is kept: %s", pack, exc)


def _is_sparse(row: PackRow, live_min: float) -> bool:
    return row.live < live_min * (row.stop - PAGE) or row.live == 0
