"""Repair of chunks and packs: every chunk that can be read is put where it is safe.

A record is believed without another look if the table of its segment, in a pack that is whole,
says exactly the same. Any other is suspect, and so is what the check found damaged. For a suspect,
the bytes are read where the record says, and wherever a segment table of any pack says that the
chunk is. Bytes that match a checksum and decode are the chunk's if their hash is the one that the
record or the table of hashes has, or if record and segment agree in all but the hash. If there are
none the chunk is lost, and its record says so.

What a chunk derives from, its recipe says, and the rows of lineage are made to say the same. A
derived chunk is judged when its sources are. If one of those is lost, nothing can be said of its
content, and so its recipe is believed if the record has its checksum: it comes back with that one.

Chunks in packs that are damaged themselves are copied to a new pack; `repair_pack_rows` sees to
what is left of the file. Of a chunk whose bytes alone are damaged, these go to quarantine.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Final

import xxhash

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptChunk, CorruptData
from modelfs.jobs.check.chunks import form_problem
from modelfs.jobs.check.impact import impacts
from modelfs.jobs.check.packs import entry_of
from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.pack_files import read_segment_tables
from modelfs.jobs.repair.pack_rows import repair_pack_rows
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.index.chunk_records import UNKNOWN, Chunk, ChunkKind, PackRow
from modelfs.store.index.counters import NEXT_PACK
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key, number_of, pair_key
from modelfs.store.packs.segment import Entry

# No pack has a number like that.
PACK_END: Final = 1 << 62
# Where rows that do not decode leave it open what derives from what.
LINEAGE: Final = (Table.CHUNKS, Table.SOURCES, Table.DEPENDANTS)


def repair_chunks(context: RepairContext) -> None:
    """Let every chunk that is needed be where its record says, or be lost."""
    mender = _ChunkMender(context)
    mender.judge()
    mender.relink()
    mender.tell()
    mender.move()
    repair_pack_rows(context, mender.states, mender.damaged)


class _ChunkMender:
    def __init__(self, context: RepairContext) -> None:
        self._context = context
        self._chunks = context.store.chunks
        self._reader = context.store.chunk_reader
        self._packs = context.store.packs
        self._largest = context.store.superblock.chunk_size
        view = context.view()
        self._needed = view.references.extents.keys() | view.derivations.dependants.keys()
        self.states = {pack: read_segment_tables(self._packs, pack) for pack in self._all_packs()}
        self.damaged = {
            pack
            for pack, state in self.states.items()
            if state.is_damaged(self._chunks.pack_row(pack).stop)
        }
        self._moving: dict[ChunkId, Chunk] = {}  # intact, but in no place to stay
        self._shortened: set[ChunkId] = set()  # to be stored plain
        self._lost: dict[ChunkId, Chunk] = {}
        self._waiting: dict[ChunkId, tuple[Chunk, ChunkId]] = {}  # for a source: how, and which
        self._found = 0
        reported = context.reported
        self._doubtful = reported.lineage_doubtful or bool(reported.baseless or reported.too_long)
        self._doubtful |= any(context.unreadable[table] for table in LINEAGE)

    def _all_packs(self) -> set[PackId]:
        rows = {PackId(number_of(key)) for key, _ in self._context.rows(Table.PACKS)}
        records = (record for _, record in self._context.rows(Table.CHUNKS))
        return rows | {each.pack for each in records if not each.is_lost} | self._packs.numbers()

    # -- which chunks are where

    def judge(self) -> None:
        """Find the place of every chunk, and change the records of those that are elsewhere."""
        missing = set(self._needed)
        suspects: dict[ChunkId, Chunk | None] = {}
        for key, record in list(self._context.rows(Table.CHUNKS)):
            chunk = ChunkId(number_of(key))
            missing.discard(chunk)
            if self._is_suspect(chunk, record):
                suspects[chunk] = record
        self._judge_all(suspects | dict.fromkeys(sorted(missing)))

    def _judge_all(self, suspects: dict[ChunkId, Chunk | None]) -> None:
        self._doubtful |= bool(suspects)
        waiting = suspects
        while waiting:
            left = {chunk: old for chunk, old in waiting.items() if not self._judge(chunk, old)}
            if len(left) == len(waiting):
                break  # what they wait for does not come
            waiting = left
        for chunk, record in waiting.items():
            if not self._judge(chunk, record) and not self._judge_with_sources(chunk, record):
                self._believe(chunk, record)

    def _judge_with_sources(self, chunk: ChunkId, record: Chunk | None) -> bool:
        # Sources without a record are in some pack perhaps. Nothing is known of them, but if this
        # chunk comes out of them as it was, they are what they were, too.
        supposed: list[ChunkId] = []
        while self._is_missing(source := self._waiting[chunk][1]):
            if (found := self._stored_somewhere(source)) is None:
                break
            supposed.append(source)
            self._put(source, found)
            if self._judge(chunk, record):
                break
        now = self._chunks.find(chunk)
        if now is None or now.kind is not ChunkKind.DERIVED or chunk in self._waiting:
            for source in supposed:
                self._context.index.delete(Table.CHUNKS, number_key(source))
            return chunk not in self._waiting
        for source in reversed(supposed):
            content = self._reader.read_uncached(source, self._chunks.record(source))
            digest, proof = self._chunks.digest(content), xxhash.xxh3_64_intdigest(content)
            right = dataclasses.replace(
                self._chunks.record(source), digest=digest, content_checksum=proof
            )
            self._take(source, None, right)
        return True

    def _stored_somewhere(self, chunk: ChunkId) -> Chunk | None:
        for candidate in self._candidates(chunk, None):
            if form_problem(candidate, self._largest) is None:
                with contextlib.suppress(CorruptData, OSError):
                    self._reader.stored_bytes(chunk, candidate)
                    return candidate
        return None

    def _is_suspect(self, chunk: ChunkId, record: Chunk) -> bool:
        if form_problem(record, self._largest) is not None:
            return True
        if record.is_lost:
            # Unless a pack is here that was not: it may have been found, and put back.
            return any(state.has(chunk) for state in self.states.values())
        return (
            chunk in self._context.reported.damaged | self._context.reported.endless
            or record.pack in self.damaged
            or not self._is_told(chunk, record)
            or chunk not in self._chunks.with_digest(record.digest)
        )

    def _is_told(self, chunk: ChunkId, record: Chunk) -> bool:
        return entry_of(chunk, record) in self.states[record.pack].entries.get(chunk, [])

    def _judge(self, chunk: ChunkId, record: Chunk | None) -> bool:
        """Say what a chunk is; False if that depends on what it derives from."""
        self._waiting.pop(chunk, None)
        right = next(self._intact(chunk, record), None)
        if right is not None:
            self._take(chunk, record, right)
        elif chunk in self._waiting:
            return False
        else:
            self._give_up(chunk, record)
        return True

    def _take(self, chunk: ChunkId, record: Chunk | None, right: Chunk) -> None:
        if right.pack in self.damaged or not self._is_told(chunk, right):
            self._moving[chunk] = right
        self._put(chunk, right)
        self._found += record != right

    def _believe(self, chunk: ChunkId, record: Chunk | None) -> None:
        candidate, source = self._waiting.pop(chunk)
        lost = self._chunks.find(source)
        if (
            record is not None
            and record.checksum == candidate.checksum
            and lost is not None
            and lost.is_lost
        ):
            like = dataclasses.replace(
                candidate, digest=record.digest, content_checksum=record.content_checksum
            )
            self._take(chunk, record, like)
        else:
            self._give_up(chunk, record)

    def _give_up(self, chunk: ChunkId, record: Chunk | None) -> None:
        # What has no record, and is nowhere, is told of when the maps are mended.
        if record is not None and not (
            record.is_lost and form_problem(record, self._largest) is None
        ):
            self._lose(chunk, record)

    def _put(self, chunk: ChunkId, record: Chunk) -> None:
        self._context.put(Table.CHUNKS, number_key(chunk), record.to_bytes())
        self._context.store.cache.forget(chunk)  # what derives from it is decoded anew

    def _intact(self, chunk: ChunkId, record: Chunk | None) -> Iterator[Chunk]:
        """Yield the records, right but for their uses, by which the chunk's content is read."""
        for candidate in self._candidates(chunk, record):
            if form_problem(candidate, self._largest) is not None:
                continue
            try:
                content = self._reader.read_uncached(chunk, candidate)
            except CorruptChunk as exc:
                if exc.base != chunk:
                    self._waiting.setdefault(chunk, (candidate, ChunkId(exc.base)))
                continue
            except (CorruptData, OSError):
                continue
            right = dataclasses.replace(
                candidate,
                digest=self._chunks.digest(content),
                content_checksum=xxhash.xxh3_64_intdigest(content),
            )
            if self._fits(chunk, record, right):
                yield right

    def _candidates(self, chunk: ChunkId, record: Chunk | None) -> Iterator[Chunk]:
        if record is not None and not record.is_lost:
            yield dataclasses.replace(record, content_checksum=0)  # which may be what is damaged
        for pack in sorted(self.states, reverse=True):
            for entry in self.states[pack].named(chunk):
                yield _record(entry, pack, record)

    def _fits(self, chunk: ChunkId, record: Chunk | None, right: Chunk) -> bool:
        # A chunk's number alone may be a damaged one, and a place with its checksum another's.
        if chunk in self._chunks.with_digest(right.digest):
            return True
        if record is None or right.digest == record.digest:
            return record is not None
        if right.kind is ChunkKind.DERIVED and right.content_checksum != record.content_checksum:
            return False  # a recipe makes something of whatever its sources are
        return right.checksum == record.checksum and self._is_told(chunk, right)

    # -- what derives from what

    def relink(self) -> None:
        """Let the rows of lineage say what the recipes do."""
        if not self._doubtful:
            return
        links = [
            pair_key(chunk, source)
            for chunk, sources in self._all_sources().items()
            for source in sources
        ]
        back = [key[8:] + key[:8] for key in links]
        changed = self._context.settle(Table.SOURCES, dict.fromkeys(links, b""))
        changed += self._context.settle(Table.DEPENDANTS, dict.fromkeys(back, b""))
        if changed:
            self._context.repaired(f"rows that say what derives from what, told anew: {changed}")

    def _all_sources(self) -> dict[ChunkId, tuple[ChunkId, ...]]:
        known: dict[ChunkId, tuple[ChunkId, ...]] = {}
        self._shortened = set(self._context.reported.too_long)
        while derived := [each for each in self._derived() if each[0] not in known]:
            for chunk, record in derived:
                try:
                    known[chunk] = self._reader.recipe(chunk, record).sources
                except (CorruptChunk, OSError):
                    self._judge_all({chunk: record})
            sources = set().union(*known.values())
            self._needed |= sources
            self._judge_all(dict.fromkeys(sorted(filter(self._is_missing, sources))))
            for chunk in [each for each, of in known.items() if any(map(self._is_missing, of))]:
                self._lose(chunk, self._chunks.record(chunk))
                del known[chunk]
        return known

    def _derived(self) -> Iterator[tuple[ChunkId, Chunk]]:
        for key, record in list(self._context.rows(Table.CHUNKS)):
            chunk = ChunkId(number_of(key))
            if record.kind is ChunkKind.DERIVED and chunk not in self._shortened:
                yield chunk, record

    def _is_missing(self, chunk: ChunkId) -> bool:
        return self._chunks.find(chunk) is None

    # -- what is lost

    def _lose(self, chunk: ChunkId, record: Chunk) -> None:
        self._keep_stored(chunk, record)
        self._moving.pop(chunk, None)
        lost = record.as_lost()
        if chunk in self._needed and form_problem(lost, self._largest) is None:
            self._put(chunk, lost)
        else:
            self._context.drop(Table.CHUNKS, number_key(chunk), "damaged, and nowhere else")
        if chunk in self._needed:
            self._lost[chunk] = record
        else:
            self._context.repaired(f"chunk {chunk} was damaged, and nothing uses it: removed")

    def _keep_stored(self, chunk: ChunkId, record: Chunk) -> None:
        # In a damaged pack they are kept with the whole file.
        if record.pack not in self.damaged and form_problem(record, self._largest) is None:
            with contextlib.suppress(CorruptData, OSError):
                stored = self._packs.read(record.pack, record.offset, record.stored)
                self._context.quarantine.add_content(f"chunk-{chunk}", stored)

    def tell(self) -> None:
        """Tell what was found again, and what is lost."""
        if self._found:
            self._context.repaired(f"chunks that were found again in the packs: {self._found}")
        users = impacts(self._context.view(), self._lost) if self._lost else {}
        for pack in sorted({record.pack for record in self._lost.values()}):
            chunks = [chunk for chunk, record in self._lost.items() if record.pack == pack]
            hurt = [users[chunk] for chunk in chunks]
            size = sum(self._lost[chunk].size for chunk in chunks)
            derived = sum(each.derived for each in hurt)
            self._context.quarantined(
                f"chunks in pack {pack} that are lost: {len(chunks)}, of {size} bytes"
                + (f"; chunks that derive from them: {derived}" if derived else ""),
                dict.fromkeys(path for each in hurt for path in each.files),
                dict.fromkeys(name for each in hurt for name in each.tensors),
            )

    # -- moving what cannot stay

    def move(self) -> None:
        """Copy the chunks to a new pack that have no place to stay."""
        if not self._moving and not self._shortened:
            return
        numbers = [pack for pack in self.states if pack < PACK_END]
        following = max([self._context.store.counters.get(NEXT_PACK) - 1, *numbers]) + 1
        self._packs.open_at(None, PackId(following))
        writer = self._context.store.writer()
        for chunk, record in self._moving.items():
            if chunk not in self._shortened:
                writer.copy(chunk, record, self._reader.stored_bytes(chunk, record))
        for chunk in sorted(self._shortened):
            self._put_plain(chunk, writer)
        written = writer.finish()
        for chunk, record in written.moved.items():
            self._put(chunk, record)
        for tail in written.tails:
            row = PackRow(tail.stop, 0).to_bytes()
            self._context.put(Table.PACKS, number_key(tail.pack), row)
            self._context.store.counters.set(NEXT_PACK, tail.pack + 1)
            self.states[tail.pack] = read_segment_tables(self._packs, tail.pack)
        self._context.repaired(f"chunks that were copied to a new pack: {len(written.moved)}")

    def _put_plain(self, chunk: ChunkId, writer: ChunkWriter) -> None:
        with contextlib.suppress(CorruptData):
            record = self._chunks.record(chunk)
            plain = dataclasses.replace(record, kind=ChunkKind.PLAIN, codec=CodecId.RAW)
            writer.copy(chunk, plain, self._reader.read_uncached(chunk, record))


def _record(entry: Entry, pack: PackId, like: Chunk | None) -> Chunk:
    return Chunk(
        kind=entry.kind,
        codec=entry.codec,
        size=entry.size,
        pack=pack,
        offset=entry.offset,
        stored=entry.stored,
        refs=1 if like is None else like.refs,  # counted at the end of the round
        ref_bytes=0 if like is None else like.ref_bytes,
        checksum=entry.checksum,
        digest=UNKNOWN,
        dependants=0 if like is None else like.dependants,
        optimized=like is not None and like.optimized,
    )
