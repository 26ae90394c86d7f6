"""Reclaim: removes the records of dead chunks, and packs without a live chunk.

A chunk that neither an extent nor a recipe needs is listed as dead. Removing its record may leave
its source chunks dead in turn. A pack is removed when no record points into it; its file is deleted
after the commit that deletes its row.

Example. Chunk 7, a delta to chunk 3, is dead and alone in pack 5; 3 has no extents and no other
dependant. One slice removes 7, which lists 3 as dead; the next slice removes 3. Pack 5 has no live
byte, so its row is deleted, and the commit deletes the file. With a damaged row of 3, the chunk 7
would stay, as the number of dependants of 3 could not be changed, and pack 5 with it.
"""

import logging
from collections.abc import Iterator
from typing import Final

from modelfs.errors import CorruptIndex, CorruptPack
from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.index.chunk_records import PackRow
from modelfs.store.index.counters import CUT_PACK, Counters
from modelfs.store.index.index import KEY_END, Index
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key, number_of
from modelfs.store.packs.pack import Packs, Tail, eio_as_corruption

log = logging.getLogger(__name__)

# Records changed in one slice, so that no request waits long.
SLICE: Final = 250


class Reclaimer:
    """Removes dead chunks' records and empty packs, in slices."""

    def __init__(self, index: Index, chunks: ChunkTable, reader: ChunkReader, packs: Packs) -> None:
        self._index = index
        self._chunks = chunks
        self._reader = reader
        self._packs = packs
        self.version = 0  # changes whenever a pack is retired or cut
        # Keys of dead chunks that were passed over. No job repairs a damaged row, so none is
        # tried again.
        self.passed: set[bytes] = set()

    def remove_dead(self) -> Iterator[int]:
        """Remove the records of dead chunks; yields the number removed, after each slice.

        Chunks with a damaged row, or with a source that has one, are passed over.
        """
        # Each slice goes on at the end of the last one: see `FileMaps.trim`. At the end of the
        # table it starts from the beginning once more, because a removed chunk's sources may have
        # died, and these usually have lower numbers.
        start = b""
        while keys := self._next_dead(start) or self._next_dead(b""):
            removed = changed = 0
            for key in keys:
                if changed >= SLICE:
                    break
                rows = self._remove(key)
                removed, changed = removed + bool(rows), changed + rows
                start = key + b"\0"
            yield removed

    def _next_dead(self, start: bytes) -> list[bytes]:
        """Return the keys of the next dead chunks from `start` on that were not passed over."""
        while rows := self._index.scan(Table.DEAD, start, KEY_END, SLICE, damaged=self.passed):
            if keys := [key for key, _ in rows if key not in self.passed]:
                return keys
            start = rows[-1][0] + b"\0"
        return []

    def _remove(self, key: bytes) -> int:
        """Remove a dead chunk; return how many records that changed, 0 if it is passed over."""
        chunk = ChunkId(number_of(key))
        try:
            # A change of its own, as the damage may show in the middle of it.
            with self._index.change():
                sources = self._chunks.remove(chunk)
        except CorruptIndex as exc:
            log.error("the dead chunk %d stays: %s", chunk, exc)
            self.passed.add(key)
            return 0
        self._reader.forget(chunk)
        return 1 + sources

    def retire_empty_packs(self) -> Iterator[None]:
        """Retire the packs without a live chunk; yields between slices.

        With chunks that were passed over, packs are left to a collection, which looks into them.
        """
        empty = [pack for pack, row in self.packs() if not row.live]
        if empty:
            for _ in self.remove_dead():
                yield
        if self.passed:
            return
        for pack in empty:
            self._packs.seal(pack)
            self.retire(pack)

    def retire(self, pack: PackId, *, is_empty: bool = False) -> int:
        """Remove the row of a sealed pack without a live chunk; the next commit deletes its file.

        Args:
            pack: sealed.
            is_empty: since it was sealed, `may_have_chunks` has found that it has none.

        Returns:
            The pack's size in bytes; 0 if it stays: it has a live chunk, or it may have one that
            was passed over.
        """
        row = self._chunks.pack_row(pack)
        if row.live:
            return 0
        for _ in self.remove_dead():
            pass  # the records of chunks that died a moment ago may point into the pack
        if self.passed and not is_empty:
            return 0
        with self._index.change():
            self._index.delete(Table.PACKS, number_key(pack))
        self._packs.delete_after_commit(pack)
        self.version += 1
        return row.stop

    def cut(self, tail: Tail) -> int:
        """Give a sealed pack an earlier end; the next commit cuts its file there.

        No record may point behind it: see `remove_dead`.

        Returns:
            The bytes by which it becomes shorter.
        """
        with self._index.change():
            row = self._chunks.pack_row(tail.pack)
            self._chunks.put_pack_row(tail.pack, PackRow(tail.stop, row.live))
            counters = Counters(self._index)
            counters.set(CUT_PACK, max(tail.pack, counters.get(CUT_PACK)))
        self._packs.cut_after_commit(tail)
        self.version += 1
        return row.stop - tail.stop

    def may_have_chunks(self, pack: PackId, start: int) -> bool:
        """Whether a chunk, dead or alive, may lie in a pack behind `start`, where a segment begins.

        One with a damaged record may lie where it has an entry, and any chunk where entries are
        damaged. Any thread; reads segment tables.
        """
        stop = self._chunks.pack_row(pack).stop
        try:
            with eio_as_corruption():
                for entry in self._packs.entries_from(pack, start, stop):
                    record = self._chunks.find(entry.chunk)
                    if record is not None and record.place == (pack, entry.offset):
                        return True
        except (CorruptIndex, CorruptPack):
            return True
        return False

    def packs(self) -> Iterator[tuple[PackId, PackRow]]:
        """Yield the rows of all packs."""
        for key, value in self._index.pages(Table.PACKS):
            yield PackId(number_of(key)), PackRow.from_bytes(value)
