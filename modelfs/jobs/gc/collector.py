"""Garbage collection: chunks that nothing needs, and packs with little left in them.

Theory of operation. A chunk without references is dead, and listed as such. Collecting removes the
records of dead chunks, in slices, and then rewrites packs of which little is alive: what lives is
copied to the end of the newest pack, the records follow, and the pack goes with the next commit. A
pack that cannot be read in parts is kept, with what could not be copied.

Hints (rows of files and tensors that are gone, which only ever help to find something) are dropped
on the way.

Example. A pack of 256 MiB holds 100 chunks, and 70 of them, 180 MiB, belonged to a file that was
removed. They are dead: their records go. 76 of 256 MiB are alive, less than `LIVE_MIN`, so the
other 30 chunks are appended to another pack, and this one is deleted: 180 MiB are free again.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from modelfs.errors import CorruptPack
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.index.counters import DEAD_BYTES, DEAD_CHUNKS
from modelfs.store.index.index import KEY_END
from modelfs.store.index.records import Chunk, PackRow
from modelfs.store.index.tables import ChunkId, PackId, Table
from modelfs.store.packs.segment import PAGE
from modelfs.store.store import Store

log = logging.getLogger(__name__)

# Rewriting a pack costs what is alive in it and gains the rest: at one half, both are the same.
LIVE_MIN: Final = 0.5
# When room is short, any gain is worth a rewrite that there is room for.
LIVE_MIN_SHORT: Final = 0.85
# For a caller that waits for the store to be made small: a third of a second for each pack, which
# gives back 4 MB or more.
LIVE_MIN_SMALL: Final = 0.985
SLICE: Final = 250


class Hints(Protocol):
    """A table of rows about files, any of which may be dropped."""

    @property
    def TABLE(self) -> Table: ...  # noqa: N802 - a constant of the classes that have it

    def is_stale(self, key: bytes) -> bool:
        """Whether a row is about something that is gone."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """What gc found: numbers of things, and the bytes they take."""

    dead_chunks: int
    dead_bytes: int
    packs: int
    pack_bytes: int


class Collector:
    """Finds garbage, and copies what lives beside it."""

    def __init__(self, store: Store, hints: Iterable[Hints] = ()) -> None:
        self._store = store
        self._hints = tuple(hints)
        self._unreadable: set[PackId] = set()  # packs that could not be copied as a whole

    def survey(self, live_min: float = LIVE_MIN) -> Garbage:
        """Return what there is to collect. Costs a walk over the packs.

        Args:
            live_min: packs are to be rewritten of which a smaller part is alive.
        """
        rows = [row for _, row in self._store.reclaimer.packs() if _is_sparse(row, live_min)]
        gain = sum(row.stop - row.live for row in rows)
        counters = self._store.counters
        return Garbage(counters.get(DEAD_CHUNKS), counters.get(DEAD_BYTES), len(rows), gain)

    def drop_stale_hints(self) -> Iterator[None]:
        """Drop hints about files that are gone; yields after each slice."""
        index = self._store.index
        for hints in self._hints:
            start = b""
            while rows := index.scan(hints.TABLE, start, KEY_END, SLICE):
                with index.change():
                    for key, _ in rows:
                        if hints.is_stale(key):
                            index.delete(hints.TABLE, key)
                yield
                start = rows[-1][0] + b"\0"

    def sparse_packs(self, live_min: float = LIVE_MIN) -> list[PackId]:
        """Return the packs worth rewriting, those that need least room for it first."""
        packs = self._store.reclaimer.packs()
        sparse = [(row.live, pack) for pack, row in packs if _is_sparse(row, live_min)]
        return [pack for _, pack in sorted(sparse) if pack not in self._unreadable]

    def copy_live(self, pack: PackId, writer: ChunkWriter) -> None:
        """Append the live chunks of a pack to another. Any thread.

        Raises:
            OSError: the backing disk is full, or failed at more than reading a chunk.
        """
        for chunk, record in self._live(pack):
            if (stored := self._store.chunk_reader.readable_bytes(chunk, record)) is not None:
                writer.copy(chunk, record, stored)

    def retire(self, pack: PackId) -> int:
        """Forget a pack that was copied, and return its size; 0 if not all of it could be."""
        freed = self._store.reclaimer.retire(pack)
        if not freed:
            self._unreadable.add(pack)
        return freed

    def _live(self, pack: PackId) -> Iterator[tuple[ChunkId, Chunk]]:
        store = self._store
        try:
            for entry in store.packs.entries(pack, store.chunks.pack_row(pack).stop):
                record = store.chunks.find(entry.chunk)
                if record is not None and record.place == (pack, entry.offset):
                    yield entry.chunk, record
        except CorruptPack as exc:
            log.error("pack %d is kept: %s", pack, exc)


def _is_sparse(row: PackRow, live_min: float) -> bool:
    return row.live < live_min * (row.stop - PAGE) or row.live == 0
