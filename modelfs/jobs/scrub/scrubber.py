"""Scrub: read every stored byte, so that damage is found before the byte is needed.

Theory of operation. A scrub checks packs by ascending number, and the segments of a pack in file
order, so that the disk reads sequentially. Of a segment it checks the table and each chunk in use:
the stored bytes against their checksum, and the decoded content against its hash. Before each read
the kernel's cached pages are dropped, or memory would answer for a disk that has rotted.

The position is kept in the index, so a scrub continues after a stop, a crash or a remount. Segments
appended meanwhile are checked at the end. A scrub that begins with the first pack again, while a
range is being read, does not go on behind that range.

A damaged chunk is recorded in the index with its place. It is *healed*, and the row is deleted,
when the chunk has another place, because a good copy was written, or is not in use any more; or
when a later scrub finds it sound, because the disk had failed for a moment, or a backup of the pack
was put in its place.

Example. A store has pack 1 with two segments and pack 2 with one. The first segment is sound; in
the second, chunk 7 does not match its checksum. A row for chunk 7 has pack 1 and its offset. The
store is unmounted and mounted: the scrub continues with pack 2, and ends. When the file of chunk 7
is copied in again, a good copy of the chunk is appended to pack 2. That is not the row's place, so
the row is deleted.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from modelfs.errors import CorruptChunk, CorruptIndex, CorruptPack
from modelfs.store.index.chunk_records import Chunk, PackRow
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
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key, number_of, prefix_end
from modelfs.store.packs.pack import SegmentTable
from modelfs.store.packs.segment import PAGE
from modelfs.store.store import Store

# Bytes at the beginning of a segment that hold its table, for any number of entries.
TABLE_MAX: Final = 64 << 10
# Damaged chunks that have a row in the index. More are logged and counted only.
REMEMBERED_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class ScrubStatus:
    """The progress of the scrub under way, or the result of the last one."""

    started_ns: int  # 0: there was none
    ended_ns: int  # 0: under way, or stopped
    chunks: int  # checked so far
    bytes: int  # stored bytes of these chunks
    done: int  # bytes of packs before the position
    total: int  # bytes of all packs
    rate: int  # bytes per second, of a scrub in the background; 0: of a command


@dataclass(frozen=True, slots=True)
class PackRange:
    """A range of a pack to check: from the position to the end of the pack's committed part."""

    pack: PackId
    start: int
    stop: int
    started_ns: int  # of the scrub that checks it


@dataclass(frozen=True, slots=True)
class CheckedRange:
    """The result of a check: the next position, counts, and damage."""

    pack: PackId
    stop: int  # of the segment that was checked, or of the pack
    chunks: int = 0
    bytes: int = 0
    damaged: Mapping[ChunkId, str] = field(default_factory=dict)  # a message for each chunk
    places: Mapping[ChunkId, int] = field(default_factory=dict)  # of the damaged chunks
    sound: tuple[ChunkId, ...] = ()  # that have been recorded as damaged before
    problems: tuple[str, ...] = ()  # of the pack's header and tables, and of rows of its chunks


class Scrubber:
    """Checks the packs of a store, a range at a time."""

    def __init__(self, store: Store) -> None:
        self._index = store.index
        self._counters = store.counters
        self._chunks = store.chunks
        self._reader = store.chunk_reader
        self._packs = store.packs

    # -- owner's thread

    def begin(self, *, restart: bool = False, rate: int = 0) -> None:
        """Continue the scrub that was stopped, or begin one if none was.

        Args:
            restart: begin with the first pack, even if a scrub was stopped.
            rate: bytes per second, of a scrub that continues in the background after a remount.
        """
        with self._index.change():
            if restart or not self._counters.get(SCRUB_STARTED) or self._counters.get(SCRUB_ENDED):
                for name in (SCRUB_ENDED, SCRUB_PACK, SCRUB_OFFSET, SCRUB_CHUNKS, SCRUB_BYTES):
                    self._counters.set(name, 0)
                # Unique, also if the clock was set back: `apply` compares it.
                started = max(time.time_ns(), self._counters.get(SCRUB_STARTED) + 1)
                self._counters.set(SCRUB_STARTED, started)
            self._counters.set(SCRUB_RATE, rate)

    def pause(self) -> None:
        """Record that the scrub does not continue in the background."""
        with self._index.change():
            self._counters.set(SCRUB_RATE, 0)

    def next_range(self) -> PackRange | None:
        """Return the range after the position; at the end, record that, and return None."""
        pack, offset = self._counters.get(SCRUB_PACK), self._counters.get(SCRUB_OFFSET)
        for key, value in self._index.pages(Table.PACKS, number_key(pack)):
            number, row = PackId(number_of(key)), PackRow.from_bytes(value)
            start = max(PAGE, offset) if number == pack else PAGE
            if start < row.stop:
                return PackRange(number, start, row.stop, self._counters.get(SCRUB_STARTED))
        with self._index.change():
            self._counters.set(SCRUB_ENDED, time.time_ns())
            self._counters.set(SCRUB_RATE, 0)
        return None

    def apply(self, part: PackRange, checked: CheckedRange) -> None:
        """Record a range that was checked: position, counts, damaged and healed chunks.

        If another scrub has begun since `next_range`, record the chunks only.
        """
        with self._index.change():
            if part.started_ns == self._counters.get(SCRUB_STARTED):
                self._counters.set(SCRUB_PACK, checked.pack)
                self._counters.set(SCRUB_OFFSET, checked.stop)
                self._counters.add(SCRUB_CHUNKS, checked.chunks)
                self._counters.add(SCRUB_BYTES, checked.bytes)
            for chunk in checked.sound:
                self._index.delete(Table.META, _damage_key(chunk))
            room = REMEMBERED_MAX - len(self._damage_keys())
            for chunk, place in list(checked.places.items())[: max(0, room)]:
                self._counters.set(_damage_key(chunk), place)

    def status(self) -> ScrubStatus:
        pack, offset = self._counters.get(SCRUB_PACK), self._counters.get(SCRUB_OFFSET)
        rows = [
            (number_of(key), PackRow.from_bytes(value).stop)
            for key, value in self._index.pages(Table.PACKS)
        ]
        done = sum(stop for number, stop in rows if number < pack)
        done += sum(min(stop, offset) for number, stop in rows if number == pack)
        total = sum(stop for _, stop in rows)
        ended = self._counters.get(SCRUB_ENDED)
        return ScrubStatus(
            self._counters.get(SCRUB_STARTED),
            ended,
            self._counters.get(SCRUB_CHUNKS),
            self._counters.get(SCRUB_BYTES),
            total if ended else done,
            total,
            self._counters.get(SCRUB_RATE),
        )

    def damaged(self) -> dict[ChunkId, str]:
        """Return a message with the place of each damaged chunk that is not healed."""
        messages = {}
        for key in self._damage_keys():
            if (record := self._still_damaged(key)) is not None:
                chunk, place = _chunk_of(key), f"in pack {record.pack} at {record.offset}"
                messages[chunk] = f"chunk {chunk}: damaged {place}"
        return messages

    def forget_healed(self) -> None:
        """Delete the rows of healed chunks."""
        healed = [key for key in self._damage_keys() if self._still_damaged(key) is None]
        with self._index.change():
            for key in healed:
                self._index.delete(Table.META, key)

    def _damage_keys(self) -> list[bytes]:
        return list(self._index.keys(Table.META, SCRUB_DAMAGED, prefix_end(SCRUB_DAMAGED)))

    def _still_damaged(self, key: bytes) -> Chunk | None:
        record = self._chunks.find(_chunk_of(key))
        if record is None or not record.alive or _place_number(record) != self._counters.get(key):
            return None
        return record

    # -- any thread

    def check(self, part: PackRange) -> CheckedRange:
        """Check the first segment of a range.

        If the segment's table is damaged, check the whole range.
        """
        stop, problems = part.stop, list[str]()
        self._drop_cached_pages(part.pack, part.start - PAGE, part.start + TABLE_MAX)
        try:
            if part.start == PAGE:
                self._packs.check_header(part.pack)
            segment = self._packs.segment(part.pack, part.start, part.stop)
            stop = segment.stop
            records = self._chunks_in_use(part, problems, segment)
        except (CorruptPack, OSError) as exc:
            present_stop = self._chunks.pack_row(part.pack).stop
            if present_stop <= part.start:
                return CheckedRange(part.pack, part.stop)  # gc has deleted or cut the pack
            if present_stop < part.stop:
                return self.check(replace(part, stop=present_stop))
            problems.append(str(exc))
            records = self._chunks_in_use(part, problems)
        self._drop_cached_pages(part.pack, part.start, stop)
        return self._check_chunks(part.pack, stop, records, problems)

    def _check_chunks(
        self,
        pack: PackId,
        stop: int,
        records: Iterable[tuple[ChunkId, Chunk]],
        problems: list[str],
    ) -> CheckedRange:
        """Check the chunks of a range that ends at `stop`; adds to its problems."""
        count = size = 0
        damaged, places = dict[ChunkId, str](), dict[ChunkId, int]()
        recorded, sound = {*map(_chunk_of, self._damage_keys())}, list[ChunkId]()
        for chunk, record in records:
            try:
                failure = self._failure(chunk, record)
                damage = None if failure is None else self._damage_of(chunk, failure)
                now = self._chunks.find(chunk)
            except CorruptIndex as exc:
                problems.append(f"chunk {chunk} is not checked: {exc}")
                continue
            if damage is not None:
                source, place, message = damage
                damaged[source], places[source] = message, place
            if now is None or now.place != record.place:
                damaged.pop(chunk, None)  # moved or removed meanwhile
                places.pop(chunk, None)
                continue
            if failure is None and chunk in recorded:
                sound.append(chunk)
            count += 1
            size += record.stored
        return CheckedRange(pack, stop, count, size, damaged, places, tuple(sound), tuple(problems))

    def _chunks_in_use(
        self, part: PackRange, problems: list[str], segment: SegmentTable | None = None
    ) -> Iterator[tuple[ChunkId, Chunk]]:
        """Yield the chunks in use of a segment; without its table, those of the rest of the pack.

        The latter costs a walk over all chunk records, but damaged tables are rare. Chunks whose
        records are damaged are left out, and of a segment they are added to `problems`.
        """
        if segment is not None:
            for entry in segment.entries:
                try:
                    record = self._chunks.find(entry.chunk)
                except CorruptIndex as exc:
                    problems.append(f"chunk {entry.chunk} is not checked: {exc}")
                    continue
                place = segment.pack, entry.offset
                if record is not None and record.alive and record.place == place:
                    yield entry.chunk, record
            return
        for key, value in self._index.pages(Table.CHUNKS, damaged=set()):
            record = Chunk.from_bytes(value)
            if record.pack == part.pack and record.alive and record.offset >= part.start:
                yield ChunkId(number_of(key)), record

    def _failure(self, chunk: ChunkId, record: Chunk) -> CorruptChunk | OSError | None:
        """Check a chunk, and return the error if it fails."""
        try:
            self._reader.check(chunk, record)
        except (CorruptChunk, OSError) as exc:
            return exc
        return None

    def _damage_of(
        self, chunk: ChunkId, failure: CorruptChunk | OSError
    ) -> tuple[ChunkId, int, str] | None:
        """Return the damaged chunk of a failed check, its place, and a message.

        A chunk that fails to decode because of its source is reported as damage of the source.
        Damage of a chunk that is recorded as lost is not new, and fsck reports it.
        """
        damaged = ChunkId(failure.base) if isinstance(failure, CorruptChunk) else chunk
        found = self._chunks.find(damaged)
        if found is None:
            damaged, found = chunk, self._chunks.find(chunk)
        if found is None or found.is_lost:
            return None
        self._reader.stored.distrust(found)
        return damaged, _place_number(found), str(failure)

    def _drop_cached_pages(self, pack: PackId, start: int, stop: int) -> None:
        with contextlib.suppress(CorruptPack):  # the reads after this raise it, too
            file = self._packs.descriptor(pack)
            os.posix_fadvise(file.fd, start, stop - start, os.POSIX_FADV_DONTNEED)


def _damage_key(chunk: ChunkId) -> bytes:
    return SCRUB_DAMAGED + number_key(chunk)


def _chunk_of(key: bytes) -> ChunkId:
    return ChunkId(number_of(key[len(SCRUB_DAMAGED) :]))


def _place_number(record: Chunk) -> int:
    # A pack is much shorter than 4 GiB.
    return record.pack << 32 | record.offset
