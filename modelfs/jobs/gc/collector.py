"""Garbage: chunks without references, packs with few live bytes, stale hints.

Theory of operation. A chunk without references is *dead*, and has a row in a table of its own.
A collection removes the records of dead chunks, in slices. Then it rewrites *sparse* packs: live
chunks are copied to the end of the newest pack, their records follow, and the sparse pack is
deleted with the next commit. If there is no room for all of them, it is rewritten in *portions*:
the last segments first, and each commit cuts these off the pack's file. A pack is kept if one of
its chunks cannot be copied.

A pack is sparse if its live chunks would take much less room in a new one. That is more than their
stored bytes: tables and padding are a fifth of a pack of chunks of 160 bytes, and no rewriting
frees them. So the segment tables of a pack are read before it is rewritten, once: the result is
remembered, less the bytes that die afterwards.

In between, stale hints are dropped. Hints are rows that only speed up a search, and one is stale
when its file or tensor is gone. A hint with a damaged row is dropped, too, as no content needs it.

Example. A pack holds 250 chunks of 1 MiB, and 180 of them belonged to a file that was removed. They
are dead: their records go. The other 70 take 70 of 250 MiB, less than `LIVE_MIN`, so they are
appended to another pack, and this one is deleted: 180 MiB are free again. With room for 10 MiB, the
last six segments, of 28 MiB with 9 live ones, are copied and cut off first, and so on.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from modelfs.errors import CorruptIndex, CorruptPack
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.index.chunk_records import Chunk, PackRow
from modelfs.store.index.counters import DEAD_BYTES, DEAD_CHUNKS
from modelfs.store.index.decoders import DECODERS
from modelfs.store.index.index import KEY_END
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key
from modelfs.store.packs.pack import Tail
from modelfs.store.packs.segment import PAGE, Entry, PackedSize
from modelfs.store.store import Store

log = logging.getLogger(__name__)

# A pack is sparse if its live chunks would take a smaller part of it. Rewriting it writes that part
# and frees the rest; at one half, cost and gain are equal.
LIVE_MIN: Final = 0.5
# Beside requests that use the disk: each byte that is freed costs the copy of two at most.
LIVE_MIN_BUSY: Final = 0.7
# While room is short: more is worth a rewrite, as long as there is room for the copy.
LIVE_MIN_SHORT: Final = 0.85
# While no program uses the store, so that the room of a small file comes back, too.
LIVE_MIN_IDLE: Final = 0.95
# For a command that makes the store small: frees 4 MB or more in a third of a second for each pack.
LIVE_MIN_SMALL: Final = 0.985
# The most that is copied between two changes of the index: their records are in memory.
PORTION_CHUNKS: Final = 20_000
# Hints that are looked at in one change of the index.
SLICE: Final = 250


class Hints(Protocol):
    """A table of hints: any of its rows may be dropped."""

    @property
    def table(self) -> Table: ...

    def is_stale(self, key: bytes) -> bool:
        """Whether the file or tensor of a row that decodes is gone, or has changed."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """The garbage of a store: counts, and bytes that a collection frees."""

    dead_chunks: int
    dead_bytes: int  # of these chunks, many of them in packs that stay
    packs: int  # sparse ones
    pack_bytes: int
    base_only_chunks: int = 0  # that their dependants can be encoded without
    base_only_bytes: int = 0  # that are free after that, about

    @property
    def freed_bytes(self) -> int:
        """Bytes of the disk that are free after the collection, about."""
        return self.pack_bytes + self.base_only_bytes


@dataclass(frozen=True, slots=True)
class PackSegments:
    """The segments of a pack."""

    pack: PackId
    starts: list[int]  # offsets
    are_all: bool  # False: a table is damaged, and no segment is known from there on


@dataclass(frozen=True, slots=True)
class Portion:
    """The last segments of a pack, which are copied and cut off together."""

    chunks: list[tuple[ChunkId, Chunk]]  # that are live, in the order of the pack
    segments: int


class Collector:
    """Finds garbage, and copies the live chunks of sparse packs."""

    def __init__(self, store: Store, hints: Iterable[Hints] = ()) -> None:
        self._store = store
        self._hints = tuple(hints)
        # Packs with a chunk that could not be copied, and the live bytes that they were left with.
        self._unreadable: dict[PackId, int] = {}
        # The live bytes of packs as of their last measure, and the bytes of a rewrite.
        self._measured: dict[PackId, tuple[int, int]] = {}

    def survey(self, live_min: float = LIVE_MIN) -> Garbage:
        """Return the garbage of the store. Any thread; walks over packs and base-only chunks.

        It may be less, if tables and padding of a pack were never measured.

        Args:
            live_min: packs are sparse if their live chunks would take a smaller part of them.
        """
        gains = [row.stop - self._need(pack, row) for pack, row in self._sparse(live_min)]
        counters = self._store.counters
        dead_chunks, dead_bytes = counters.get(DEAD_CHUNKS), counters.get(DEAD_BYTES)
        bases = self._store.base_only.estimate()
        return Garbage(dead_chunks, dead_bytes, len(gains), sum(gains), *bases)

    def measured(self, live_min: float = LIVE_MIN) -> Garbage:
        """Measure packs, and return the garbage of the store. Any thread."""
        self.measure(live_min)
        return self.survey(live_min)

    def garbage_bytes(self, live_min: float = LIVE_MIN) -> int:
        """Return how many bytes of sparse packs are garbage; as `survey`, but of packs only."""
        return sum(row.stop - self._need(pack, row) for pack, row in self._sparse(live_min))

    def pack_bytes(self) -> int:
        """Return the size of all packs, in bytes."""
        return sum(row.stop for _, row in self._store.reclaimer.packs())

    def _sparse(self, live_min: float) -> list[tuple[PackId, PackRow]]:
        rows, passed = self._store.reclaimer.packs(), self._store.reclaimer.passed
        return [
            (pack, row)
            for pack, row in rows
            if not (row.live or passed)
            or (
                self._need(pack, row) < live_min * (row.stop - PAGE)
                and self._unreadable.get(pack) != row.live
            )
        ]

    def _need(self, pack: PackId, row: PackRow) -> int:
        """Return how many bytes the live chunks of a pack would take in a new one."""
        live, need = self._measured.get(pack, (row.live, row.live))
        return need - live + row.live

    def measure(self, live_min: float = LIVE_MIN) -> None:
        """Measure the packs that may be sparse. Any thread; reads their segment tables.

        A pack that changes meanwhile is measured the next time.
        """
        packs = {pack for pack, _ in self._store.reclaimer.packs()}
        for deleted in {*self._measured, *self._unreadable} - packs:
            self._measured.pop(deleted, None)
            self._unreadable.pop(deleted, None)
        passed = self._store.reclaimer.passed
        for pack, row in self._sparse(live_min):
            live, _ = self._measured.get(pack, (None, 0))
            if live != row.live and (row.live or passed):
                self._measure(pack, row)

    def _measure(self, pack: PackId, row: PackRow) -> None:
        size, passed = PackedSize(self._store.packs.segment_size), self._store.reclaimer.passed
        problem: CorruptPack | None = None
        try:
            for chunk, record in self._live(pack, self._store.packs.entries(pack, row.stop)):
                # Others go with the next collection.
                if record.alive or number_key(chunk) in passed:
                    size.add(record.kind, record.size, record.stored)
        except CorruptPack as exc:
            problem = exc
        # Other jobs may cut or delete the pack, whose tables are then missing, and chunks may die.
        if self._store.chunks.pack_row(pack) != row:
            return
        if problem is not None:
            log.error("pack %d is kept: %s", pack, problem)
        self._measured[pack] = row.live, size.total

    def drop_stale_hints(self) -> Iterator[None]:
        """Drop stale hints, and rows that do not decode; yields after each slice."""
        index = self._store.index
        for hints in self._hints:
            start = b""
            damaged: set[bytes] = set()
            while rows := index.scan(hints.table, start, KEY_END, SLICE, damaged=damaged):
                with index.change():
                    for key, value in rows:
                        if _is_useless(hints, key, value):
                            index.delete(hints.table, key)
                yield
                start = rows[-1][0] + b"\0"
            with index.change():
                for key in damaged:
                    log.warning("a damaged row of %s is dropped: %s", hints.table.value, key.hex())
                    index.delete(hints.table, key)

    def sparse_packs(self, live_min: float = LIVE_MIN) -> list[PackId]:
        """Return the packs to rewrite, by ascending room that the rewrite needs."""
        sparse = [(row.live, pack) for pack, row in self._sparse(live_min)]
        return [pack for _, pack in sorted(sparse)]

    def portion(self, segments: PackSegments, size_max: int) -> Portion:
        """Return the last segments of a pack whose live chunks take so much room, one at least.

        If one of its tables is damaged, all of those before that. Any thread.

        Args:
            segments: of a sealed pack, as far as it is not copied yet.
            size_max: bytes of the room for a copy.
        """
        pack, stop = segments.pack, self._store.chunks.pack_row(segments.pack).stop
        copied = PackedSize(self._store.packs.segment_size)
        parts: list[list[tuple[ChunkId, Chunk]]] = []
        count = 0
        for start in reversed(segments.starts):
            live = list(self._live(pack, self._store.packs.segment(pack, start, stop).entries))
            for _, record in live:
                copied.add(record.kind, record.size, record.stored)
            count += len(live)
            is_enough = copied.total > size_max or count > PORTION_CHUNKS
            if parts and is_enough and segments.are_all:
                break
            parts.append(live)
        chunks = [pair for live in reversed(parts) for pair in live]
        return Portion(chunks, len(parts))

    def copy(self, portion: Portion, writer: ChunkWriter) -> WriteResult:
        """Append the chunks of a portion to another pack, durably. Any thread.

        Chunks that cannot be read are logged, and stay.

        Raises:
            OSError: the backing disk is full, or failed at more than reading a chunk.
        """
        for chunk, record in portion.chunks:
            if (stored := self._store.stored_bytes.read_if_intact(chunk, record)) is not None:
                writer.copy(chunk, record, stored)
        return writer.finish()

    def segments(self, pack: PackId) -> PackSegments:
        """Return a pack's segments, up to the first damaged table. Any thread; reads tables."""
        packs, stop = self._store.packs, self._store.chunks.pack_row(pack).stop
        starts: list[int] = []
        offset = PAGE
        try:
            packs.check_header(pack)
            while offset < stop:
                segment = packs.segment(pack, offset, stop)
                starts.append(offset)
                offset = segment.stop
        except CorruptPack as exc:
            log.error("pack %d is kept: %s", pack, exc)
            return PackSegments(pack, starts, are_all=False)
        return PackSegments(pack, starts, are_all=True)

    def _live(self, pack: PackId, entries: Iterable[Entry]) -> Iterator[tuple[ChunkId, Chunk]]:
        """Yield the chunks of entries that have their place there. Any thread.

        Chunks whose records are damaged are left out, and keep their pack.
        """
        for entry in entries:
            try:
                record = self._store.chunks.find(entry.chunk)
            except CorruptIndex as exc:
                log.error("chunk %d stays in pack %d: %s", entry.chunk, pack, exc)
                continue
            if record is not None and record.place == (pack, entry.offset):
                yield entry.chunk, record

    def cut(self, segments: PackSegments, portion: Portion, *, has_chunks: bool) -> bool:
        """Cut a portion, whose chunks are elsewhere, off its pack, with the next commit.

        Returns False, and remembers the pack as unreadable, if chunks are left in it.
        """
        first = segments.starts[-portion.segments]
        if has_chunks:
            self._unreadable[segments.pack] = self._store.chunks.pack_row(segments.pack).live
            return False
        self._store.reclaimer.cut(Tail(segments.pack, first))
        del segments.starts[-portion.segments :]
        return True

    def has_chunks(self, segments: PackSegments, portion: Portion) -> bool:
        """Whether a chunk may have its place in a portion. Any thread; reads segment tables."""
        start = segments.starts[-portion.segments] if portion.segments else PAGE
        return self._store.reclaimer.may_have_chunks(segments.pack, start)

    def retire(self, pack: PackId, *, is_empty: bool = False) -> int:
        """Delete a pack with the next commit, and return its size; see `Reclaimer.retire`.

        Returns 0, and remembers the pack as unreadable, if chunks are left in it.
        """
        freed = self._store.reclaimer.retire(pack, is_empty=is_empty)
        if not freed:
            self._unreadable[pack] = self._store.chunks.pack_row(pack).live
        return freed


def _is_useless(hints: Hints, key: bytes, value: bytes) -> bool:
    """Whether a row of hints does not decode, or is stale."""
    try:
        DECODERS[hints.table](key, value)
    except CorruptIndex as exc:
        log.warning("a damaged row of %s is dropped: %s", hints.table.value, exc)
        return True
    try:
        return hints.is_stale(key)
    except CorruptIndex:
        return False  # the row of its file or tensor is damaged, and may be repaired
