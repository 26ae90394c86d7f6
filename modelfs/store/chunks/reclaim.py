"""Reclaim: removes the records of dead chunks, and packs without a live chunk.

A chunk that neither an extent nor a recipe needs is listed as dead. Removing its record may leave
its source chunks dead in turn. A pack is removed when no record points into it; its file is deleted
after the commit that deletes its row.

Example. Chunk 7, a delta to chunk 3, is dead and alone in pack 5; 3 has no extents and no other
dependant. One slice removes 7, which lists 3 as dead; the next slice removes 3. Pack 5 has no live
byte, so its row is deleted, and the commit deletes the file.
"""

from collections.abc import Iterator
from typing import Final

from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.index.chunk_records import PackRow
from modelfs.store.index.counters import CUT_PACK, Counters
from modelfs.store.index.index import KEY_END, Index
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key, number_of
from modelfs.store.packs.pack import Packs, Tail

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

    def remove_dead(self) -> Iterator[int]:
        """Remove the records of dead chunks; yields the number removed, after each slice."""
        # Each slice goes on at the end of the last one: see `FileMaps.trim`. At the end of the
        # table it starts from the beginning once more, because a removed chunk's sources may have
        # died, and these usually have lower numbers.
        start = b""
        while True:
            rows = self._index.scan(Table.DEAD, start, KEY_END, SLICE, damaged=set())
            if not rows and start:
                rows = self._index.scan(Table.DEAD, b"", KEY_END, SLICE, damaged=set())
            if not rows:
                return
            removed = changed = 0
            with self._index.change():
                while removed < len(rows) and changed < SLICE:
                    chunk = ChunkId(number_of(rows[removed][0]))
                    changed += 1 + self._chunks.remove(chunk)
                    self._reader.forget(chunk)
                    removed += 1
            start = rows[removed - 1][0] + b"\0" if changed >= SLICE else b""
            yield removed

    def retire_empty_packs(self) -> Iterator[None]:
        """Retire the packs without a live chunk; yields between slices."""
        empty = [pack for pack, row in self.packs() if not row.live]
        if empty:
            for _ in self.remove_dead():
                yield
        for pack in empty:
            self._packs.seal(pack)
            self.retire(pack)

    def retire(self, pack: PackId) -> int:
        """Remove the row of a sealed pack without a live chunk; the next commit deletes its file.

        Returns:
            The pack's size in bytes; 0 if it has a live chunk, and stays.
        """
        row = self._chunks.pack_row(pack)
        if row.live:
            return 0
        for _ in self.remove_dead():
            pass  # the records of chunks that died a moment ago may point into the pack
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

    def packs(self) -> Iterator[tuple[PackId, PackRow]]:
        """Yield the rows of all packs."""
        for key, value in self._index.pages(Table.PACKS):
            yield PackId(number_of(key)), PackRow.from_bytes(value)
