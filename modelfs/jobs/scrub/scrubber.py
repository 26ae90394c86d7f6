"""Scrubbing: reading everything that is stored, to find what the disk has lost before it is needed.

Theory of operation. A scrub walks the packs in the order of their numbers, and of each pack the
segments in the order of the file, so that the disk reads sequentially. How far it came is in the
index with everything else, so it goes on there after a stop, a crash or a remount; what is appended
meanwhile it comes to in the end. Of a segment, the table and every used chunk are checked: stored
bytes against the checksum, and the decoded content against its hash. The kernel is asked to forget
the pages first, or it would answer from memory for a disk that has rotted.

A damaged chunk is remembered with its place. It is forgotten when its bytes lie elsewhere, because
a good copy was written, or when nothing uses it any more.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from modelfs.errors import CorruptChunk, CorruptPack
from modelfs.store.index.counters import (
    SCRUB_BYTES,
    SCRUB_CHUNKS,
    SCRUB_DAMAGED,
    SCRUB_ENDED,
    SCRUB_OFFSET,
    SCRUB_PACK,
    SCRUB_RATE,
    SCRUB_STARTED,
)
from modelfs.store.index.records import Chunk, PackRow
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key, number_of, prefix_end
from modelfs.store.packs.pack import SegmentTable
from modelfs.store.packs.segment import PAGE
from modelfs.store.store import Store

# Bytes at the beginning of a segment that have its table, whatever is in it.
TABLE_MAX: Final = 64 << 10
# Damaged chunks remembered by their number; all are counted and logged.
REMEMBERED_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class ScrubStatus:
    """How far the scrub that is under way is, or how the last one ended."""

    started_ns: int  # 0: there was none
    ended_ns: int  # 0: under way, or stopped and to be gone on with
    chunks: int  # checked so far
    bytes: int  # of stored chunks, checked so far
    done: int  # bytes of packs behind it
    total: int  # bytes of all packs
    rate: int  # bytes per second in the background; 0: not to go on by itself


@dataclass(slots=True)
class PackRange:
    """A part of a pack to check, and what was found in it."""

    pack: PackId
    start: int
    stop: int  # of the pack's committed part; after `check`, of this stretch
    chunks: int = 0
    bytes: int = 0
    damaged: dict[ChunkId, str] = field(default_factory=dict)
    places: dict[ChunkId, int] = field(default_factory=dict)  # of the damaged ones
    problems: list[str] = field(default_factory=list)  # of the pack itself


class Scrubber:
    """Checks a store's packs, a stretch at a time."""

    def __init__(self, store: Store) -> None:
        self._index = store.index
        self._counters = store.counters
        self._chunks = store.chunks
        self._reader = store.chunk_reader
        self._packs = store.packs

    # -- for the owner

    def begin(self, *, restart: bool = False, rate: int = 0) -> None:
        """Go on with the scrub that was stopped; begin one if there is none, or to `restart`.

        Args:
            restart: from the first pack on, even if one was stopped half-way.
            rate: bytes per second, of a scrub that is to go on in the background.
        """
        with self._index.change():
            if restart or not self._counters.get(SCRUB_STARTED) or self._counters.get(SCRUB_ENDED):
                for name in (SCRUB_ENDED, SCRUB_PACK, SCRUB_OFFSET, SCRUB_CHUNKS, SCRUB_BYTES):
                    self._counters.set(name, 0)
                self._counters.set(SCRUB_STARTED, time.time_ns())
            self._counters.set(SCRUB_RATE, rate)

    def pause(self) -> None:
        """Note that the scrub is not to go on by itself."""
        with self._index.change():
            self._counters.set(SCRUB_RATE, 0)

    def next_range(self) -> PackRange | None:
        """Return what is to be checked next; None, having ended the scrub, if nothing is."""
        pack, offset = self._counters.get(SCRUB_PACK), self._counters.get(SCRUB_OFFSET)
        for key, value in self._index.pages(Table.PACKS, number_key(pack)):
            number, row = PackId(number_of(key)), PackRow.from_bytes(value)
            start = max(PAGE, offset) if number == pack else PAGE
            if start < row.stop:
                return PackRange(number, start, row.stop)
        self._end()
        return None

    def _end(self) -> None:
        with self._index.change():
            self._counters.set(SCRUB_ENDED, time.time_ns())
            self._counters.set(SCRUB_RATE, 0)

    def apply(self, checked: PackRange) -> None:
        """Note what `check` found."""
        with self._index.change():
            self._counters.set(SCRUB_PACK, checked.pack)
            self._counters.set(SCRUB_OFFSET, checked.stop)
            self._counters.add(SCRUB_CHUNKS, checked.chunks)
            self._counters.add(SCRUB_BYTES, checked.bytes)
            room = REMEMBERED_MAX - len(self._remembered())
            for chunk, place in list(checked.places.items())[: max(0, room)]:
                self._counters.set(SCRUB_DAMAGED + number_key(chunk), place)

    def status(self) -> ScrubStatus:
        pack, offset = self._counters.get(SCRUB_PACK), self._counters.get(SCRUB_OFFSET)
        rows = [
            (number_of(key), PackRow.from_bytes(value).stop)
            for key, value in self._index.pages(Table.PACKS)
        ]
        behind = sum(stop for number, stop in rows if number < pack)
        under = sum(min(stop, offset) for number, stop in rows if number == pack)
        total = sum(stop for _, stop in rows)
        ended = self._counters.get(SCRUB_ENDED)
        return ScrubStatus(
            self._counters.get(SCRUB_STARTED),
            ended,
            self._counters.get(SCRUB_CHUNKS),
            self._counters.get(SCRUB_BYTES),
            total if ended else behind + under,
            total,
            self._counters.get(SCRUB_RATE),
        )

    def damaged(self) -> dict[ChunkId, str]:
        """Return the chunks found damaged that are so still, and where they lie."""
        found = {}
        for key in self._remembered():
            if (record := self._still_damaged(key)) is not None:
                where = f"in pack {record.pack} at {record.offset}"
                found[_chunk_of(key)] = f"chunk {_chunk_of(key)}: damaged {where}"
        return found

    def forget_healed(self) -> None:
        """Forget the damaged chunks that are gone, or whose bytes were written anew."""
        healed = [key for key in self._remembered() if self._still_damaged(key) is None]
        with self._index.change():
            for key in healed:
                self._index.delete(Table.META, key)

    def _remembered(self) -> list[bytes]:
        return [
            key
            for key, _ in self._index.pages(Table.META, SCRUB_DAMAGED, prefix_end(SCRUB_DAMAGED))
        ]

    def _still_damaged(self, key: bytes) -> Chunk | None:
        record = self._chunks.find(_chunk_of(key))
        if record is None or not record.alive or _packed_place(record) != self._counters.get(key):
            return None
        return record

    # -- any thread

    def check(self, part: PackRange) -> None:
        """Check one segment, or where its table is damaged, all that is left of the pack.

        What is found is put into the part.
        """
        self._forget_pages(part.pack, part.start - PAGE, part.start + TABLE_MAX)
        try:
            if part.start == PAGE:
                self._packs.check_header(part.pack)
            segment = self._packs.segment(part.pack, part.start, part.stop)
            part.stop = segment.stop
            records = self._used_of(segment)
        except (CorruptPack, OSError) as exc:
            if self._index.get(Table.PACKS, number_key(part.pack)) is None:
                return  # gc has deleted it
            part.problems.append(str(exc))
            records = self._used_behind(part.pack, part.start)
        self._forget_pages(part.pack, part.start, part.stop)
        for chunk, record in records:
            self._check_chunk(part, chunk, record)

    def _used_of(self, segment: SegmentTable) -> Iterator[tuple[ChunkId, Chunk]]:
        for entry in segment.entries:
            record = self._chunks.find(entry.chunk)
            place = segment.pack, entry.offset
            if record is not None and record.alive and record.place == place:
                yield entry.chunk, record

    def _used_behind(self, pack: PackId, start: int) -> Iterator[tuple[ChunkId, Chunk]]:
        # Costs a walk over all chunk records, but a damaged table is rare.
        for key, value in self._index.pages(Table.CHUNKS):
            record = Chunk.from_bytes(value)
            if record.pack == pack and record.alive and record.offset >= start:
                yield ChunkId(number_of(key)), record

    def _check_chunk(self, part: PackRange, chunk: ChunkId, record: Chunk) -> None:
        try:
            self._reader.check_content(chunk, record)
        except CorruptChunk as exc:
            self._note(part, ChunkId(exc.base), chunk, str(exc))
        except OSError as exc:
            self._note(part, chunk, chunk, str(exc))
        now = self._chunks.find(chunk)
        if now is None or now.place != record.place:
            part.damaged.pop(chunk, None)  # moved or removed meanwhile
            part.places.pop(chunk, None)
            return
        part.chunks += 1
        part.bytes += record.stored

    def _note(self, part: PackRange, damaged: ChunkId, needed_by: ChunkId, problem: str) -> None:
        # What cannot be read only for the sake of a source is told with that one, and what is
        # known to be lost is told by whoever asks what is.
        record = self._chunks.find(damaged)
        if record is None:
            damaged, record = needed_by, self._chunks.find(needed_by)
        if record is not None and not record.is_lost:
            self._reader.distrust(record)
            part.damaged[damaged] = problem
            part.places[damaged] = _packed_place(record)

    def _forget_pages(self, pack: PackId, start: int, stop: int) -> None:
        with contextlib.suppress(CorruptPack):  # whoever reads it tells
            file = self._packs.descriptor(pack)
            os.posix_fadvise(file.fd, start, stop - start, os.POSIX_FADV_DONTNEED)


def _chunk_of(key: bytes) -> ChunkId:
    return ChunkId(number_of(key[len(SCRUB_DAMAGED) :]))


def _packed_place(record: Chunk) -> int:
    # A pack is much shorter than 4 GiB.
    return record.pack << 32 | record.offset
