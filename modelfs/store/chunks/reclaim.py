"""Reclaim: records of dead chunks go, and packs in which nothing is alive.

A chunk that neither extents nor recipes need is listed as dead. Removing its record may make what
it derived from dead in turn. A pack goes when no record points into it any more; its file is
deleted after the commit that says so.
"""

from collections.abc import Iterator
from typing import Final

from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.index.index import KEY_END, Index
from modelfs.store.index.records import PackRow
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key, number_of
from modelfs.store.packs.pack import Packs

# Records changed in one go, so that no request waits long.
SLICE: Final = 250


class Reclaimer:
    """Removes dead chunks' records and empty packs, in slices."""

    def __init__(self, index: Index, chunks: ChunkTable, reader: ChunkReader, packs: Packs) -> None:
        self._index = index
        self._chunks = chunks
        self._reader = reader
        self._packs = packs

    def remove_dead(self) -> Iterator[int]:
        """Remove the records of dead chunks; yields after each slice how many it removed."""
        # Each slice goes on where the last one ended: see `FileMaps.trim`. But with a chunk, what
        # it derives from may die, which is often behind that.
        start = b""
        while True:
            rows = self._index.scan(Table.DEAD, start, KEY_END, SLICE)
            if not rows and start:
                rows = self._index.scan(Table.DEAD, b"", KEY_END, SLICE)
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
        """Retire the packs in which nothing is alive; yields between slices."""
        empty = [pack for pack, row in self.packs() if not row.live]
        if empty:
            for _ in self.remove_dead():
                yield
        for pack in empty:
            self._packs.seal(pack)
            self.retire(pack)

    def retire(self, pack: PackId) -> int:
        """Forget a sealed pack that has nothing alive in it, and return its size in bytes.

        The next commit deletes its file. A pack in which something lives stays: 0 is returned.
        """
        row = self._chunks.pack_row(pack)
        if row.live:
            return 0
        for _ in self.remove_dead():
            pass  # what died a moment ago may lie in it
        with self._index.change():
            self._index.delete(Table.PACKS, number_key(pack))
        self._packs.delete_after_commit(pack)
        return row.stop

    def packs(self) -> Iterator[tuple[PackId, PackRow]]:
        """Yield the rows of all packs."""
        for key, value in self._index.pages(Table.PACKS):
            yield PackId(number_of(key)), PackRow.from_bytes(value)
