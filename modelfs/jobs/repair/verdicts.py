"""Verdicts on chunks: which copy of a chunk is intact, if there is one.

Evidence. A candidate for a chunk is the record of the index, or an entry of a segment table that
names the chunk, in any pack, whole segments and newer packs first. Its bytes are read, and decoded.
They are the chunk's if the table of hashes leads from their hash to it, or if its record has that
hash, or if record and segment agree in all but the hash.

A derived chunk is read through its sources, so its verdict waits for theirs. While chunks are
judged their records are hidden, and nothing is read through a record in doubt. `RULES` are applied,
the strongest evidence first, until every suspect has a verdict:

1. A chunk is judged by its candidates; those that derive from a hidden chunk wait for it.
2. A source that cannot be read is a suspect too, whether anything was wrong with its record or not.
3. A source of which no row is left is right if a waiting chunk comes out of a copy of it as it was.
4. A waiting chunk whose source is lost cannot be read. Its recipe is believed, if the record has
   its checksum: it comes back with the source. If no record of the source is left, it is lost too.
5. Chunks that wait for each other are a circle, which is cut: one of them is lost.

Example. Chunk 2 derives from 1, and 3 from 2. Pack 1, which has them all, has lost its header, and
the bytes of chunk 1 are damaged::

    suspects     1, 2, 3                 all that lie in the pack
    rule 1       1: Bad                  no candidate with its checksum
                 2: Needs(1)             its bytes are right, but 1 is hidden
                 3: Needs(2)
    rule 4       2: Needs(1), for good   1 is lost, and the record of 2 has the recipe's checksum
    rule 1       3: Needs(1)             it is read through 2 now, which needs 1
    rule 4       3: Needs(1), for good
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Self

import xxhash

from modelfs.errors import CorruptChunk, CorruptData
from modelfs.jobs.check.chunks import form_problem
from modelfs.jobs.check.packs import entry_of
from modelfs.jobs.repair.pack_files import PackState
from modelfs.store.index.chunk_records import UNKNOWN, Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key
from modelfs.store.packs.segment import Entry
from modelfs.store.store import Store


@dataclass(frozen=True, slots=True)
class Intact:
    """The chunk's content was read; its record is right, but for its uses."""

    record: Chunk


@dataclass(frozen=True, slots=True)
class Needs:
    """A recipe that cannot be followed, because of a source. The last word if that is lost."""

    record: Chunk
    source: ChunkId


@dataclass(frozen=True, slots=True)
class Bad:
    """It is not the chunk, or cannot be read."""


Verdict = Intact | Needs | Bad


@dataclass(frozen=True, slots=True)
class Evidence:
    """A store's packs, as their segment tables describe them."""

    store: Store
    packs: dict[PackId, PackState]
    damaged: set[PackId]  # what is intact in them is copied to another

    def confirms(self, chunk: ChunkId, record: Chunk) -> bool:
        """Whether the table of a whole segment has just that record."""
        return entry_of(chunk, record) in self.packs[record.pack].entries.get(chunk, [])

    def is_safe(self, chunk: ChunkId, record: Chunk) -> bool:
        """Whether a chunk can stay where its record says."""
        return record.pack not in self.damaged and self.confirms(chunk, record)

    def form_problem(self, record: Chunk) -> str | None:
        return form_problem(record, self.store.superblock.chunk_size)


def candidates(evidence: Evidence, chunk: ChunkId, record: Chunk | None) -> Iterator[Chunk]:
    """Yield records by which the chunk might be read; `record` is that of the index."""
    if record is not None and not record.is_lost:
        yield dataclasses.replace(record, content_checksum=0)  # which may be the damaged field
    for pack in sorted(evidence.packs, reverse=True):
        for entry in evidence.packs[pack].named(chunk):
            yield _record_of(entry, pack, record)


def _record_of(entry: Entry, pack: PackId, record: Chunk | None) -> Chunk:
    return Chunk(
        kind=entry.kind,
        codec=entry.codec,
        size=entry.size,
        pack=pack,
        offset=entry.offset,
        stored=entry.stored,
        refs=1 if record is None else record.refs,  # counted at the end of the round
        ref_bytes=0 if record is None else record.ref_bytes,
        checksum=entry.checksum,
        digest=UNKNOWN,
        dependants=0 if record is None else record.dependants,
        optimized=record is not None and record.optimized,
    )


def verdict(evidence: Evidence, chunk: ChunkId, record: Chunk | None, candidate: Chunk) -> Verdict:
    """Return the verdict on one candidate for a chunk; `record` is that of the index."""
    if evidence.form_problem(candidate) is not None:
        return Bad()
    try:
        content = evidence.store.chunk_reader.read_uncached(chunk, candidate)
    except CorruptChunk as exc:
        return Bad() if exc.base == chunk else Needs(candidate, ChunkId(exc.base))
    except (CorruptData, OSError):
        return Bad()
    read = _as_read(evidence, candidate, content)
    return Intact(read) if _is_of(evidence, chunk, record, read) else Bad()


def _as_read(evidence: Evidence, candidate: Chunk, content: bytes) -> Chunk:
    digest = evidence.store.chunks.digest(content)
    checksum = xxhash.xxh3_64_intdigest(content)
    return dataclasses.replace(candidate, digest=digest, content_checksum=checksum)


def _is_of(evidence: Evidence, chunk: ChunkId, record: Chunk | None, read: Chunk) -> bool:
    # A chunk's number alone may be a damaged one, and a place with its checksum another's.
    if chunk in evidence.store.chunks.with_digest(read.digest):
        return True
    if record is None or read.digest == record.digest:
        return record is not None
    if read.kind is ChunkKind.DERIVED and read.content_checksum != record.content_checksum:
        return False  # a recipe makes something of any sources
    return read.checksum == record.checksum and evidence.confirms(chunk, read)


def resolve(evidence: Evidence, suspects: Iterable[ChunkId]) -> dict[ChunkId, Verdict]:
    """Return the verdict on each suspect, and on those of their sources that are suspect too.

    `Needs` is the verdict on a recipe that is believed though its source is lost. The index is as
    before when this returns.
    """
    with _HiddenRecords(evidence.store) as hidden:
        docket = _Docket(evidence, hidden)
        docket.add(suspects)
        while docket.pending:
            any(rule(docket) for rule in RULES)  # up to the first that settles anything
        return docket.verdicts


class _HiddenRecords:
    """Records of the index that are hidden or replaced while chunks are judged."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: dict[ChunkId, bytes | None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for chunk, row in self._rows.items():
            self._put(chunk, row)

    def hide(self, chunk: ChunkId) -> None:
        """Let a chunk have no record, and nothing be read through it."""
        row = self._store.index.get(Table.CHUNKS, number_key(chunk))
        self._rows.setdefault(chunk, row)
        self._put(chunk, None)

    def show(self, chunk: ChunkId, record: Chunk) -> None:
        """Let a hidden chunk be read by another record."""
        self._put(chunk, record.to_bytes())

    def _put(self, chunk: ChunkId, row: bytes | None) -> None:
        if row is None:
            self._store.index.delete(Table.CHUNKS, number_key(chunk))
        else:
            self._store.index.put(Table.CHUNKS, number_key(chunk), row)
        self._store.cache.forget(chunk)  # chunks that derive from it are decoded again


@dataclass(slots=True)
class _Docket:
    """The suspects of one `resolve`."""

    evidence: Evidence
    hidden: _HiddenRecords
    records: dict[ChunkId, Chunk | None] = field(default_factory=dict)  # before they were hidden
    verdicts: dict[ChunkId, Verdict] = field(default_factory=dict)
    # Of the chunks that wait for others: their candidates up to the first that is intact, and that.
    needs: dict[ChunkId, list[Needs]] = field(default_factory=dict)
    older: dict[ChunkId, Intact] = field(default_factory=dict)

    @property
    def pending(self) -> list[ChunkId]:
        return [chunk for chunk in self.records if chunk not in self.verdicts]

    def add(self, chunks: Iterable[ChunkId]) -> None:
        for chunk in chunks:
            self.records[chunk] = self.evidence.store.chunks.find(chunk)
            self.hidden.hide(chunk)

    def settle(self, chunk: ChunkId, verdict: Verdict) -> None:
        self.verdicts[chunk] = verdict
        if not isinstance(verdict, Bad):
            self.hidden.show(chunk, verdict.record)

    def has_no_row(self, chunk: ChunkId) -> bool:
        """Whether a suspect had no record, and no copy of it was found to be right."""
        unknown = chunk in self.records and self.records[chunk] is None
        return unknown and not isinstance(self.verdicts.get(chunk), Intact)

    def is_lost(self, chunk: ChunkId) -> bool:
        """Whether a record will say that a chunk is lost."""
        if chunk not in self.records:
            record = self.evidence.store.chunks.find(chunk)
            return record is not None and record.is_lost
        record = self.records[chunk]
        return (
            isinstance(self.verdicts.get(chunk), Bad)
            and record is not None
            and self.evidence.form_problem(record.as_lost()) is None
        )


def _judge(docket: _Docket) -> bool:
    """Settle the chunks whose first candidates that are not bad are intact, or that have none."""
    pending = docket.pending
    docket.needs, docket.older = {}, {}
    for chunk in pending:
        record = docket.records[chunk]
        for candidate in candidates(docket.evidence, chunk, record):
            outcome = verdict(docket.evidence, chunk, record, candidate)
            if isinstance(outcome, Needs):
                docket.needs.setdefault(chunk, []).append(outcome)
            elif isinstance(outcome, Intact):
                docket.older[chunk] = outcome
                break
        if chunk not in docket.needs:
            intact = docket.older.pop(chunk, None)
            docket.settle(chunk, Bad() if intact is None else intact)
    return len(docket.needs) < len(pending)


def _take_older_copies(docket: _Docket) -> bool:
    """Settle the chunks of which an intact copy is behind one that waits in vain."""
    for chunk, intact in docket.older.items():
        docket.settle(chunk, intact)
    return bool(docket.older)


def _question_sources(docket: _Docket) -> bool:
    """Add the sources that cannot be read, unless they are known as lost."""
    sources = {needs.source for each in docket.needs.values() for needs in each}
    new = [each for each in sorted(sources - docket.records.keys()) if not docket.is_lost(each)]
    docket.add(new)
    return bool(new)


def _prove_sources(docket: _Docket) -> bool:
    """Settle sources without a record together with a chunk that comes out of them as it was."""
    before = len(docket.pending)
    for chunk in docket.pending:
        for needs in docket.needs[chunk]:
            if chunk not in docket.verdicts:
                _prove_sources_of(docket, chunk, needs)
    return len(docket.pending) < before


def _prove_sources_of(docket: _Docket, chunk: ChunkId, needs: Needs) -> None:
    copies: dict[ChunkId, Chunk] = {}
    outcome: Verdict = needs
    while isinstance(outcome, Needs) and docket.has_no_row(outcome.source):
        source = outcome.source
        copy = None if source in copies else _stored_copy(docket.evidence, source)
        if copy is None:
            break
        copies[source] = copy
        docket.hidden.show(source, copy)
        outcome = verdict(docket.evidence, chunk, docket.records[chunk], needs.record)
    if not isinstance(outcome, Intact):
        for source in copies:
            docket.hidden.hide(source)
        return
    docket.settle(chunk, outcome)
    for source, copy in copies.items():
        content = docket.evidence.store.chunk_reader.read_uncached(source, copy)
        docket.settle(source, Intact(_as_read(docket.evidence, copy, content)))


def _stored_copy(evidence: Evidence, chunk: ChunkId) -> Chunk | None:
    for candidate in candidates(evidence, chunk, None):
        if evidence.form_problem(candidate) is None:
            with contextlib.suppress(CorruptData, OSError):
                evidence.store.chunk_reader.stored_bytes(chunk, candidate)
                return candidate
    return None


def _believe(docket: _Docket) -> bool:
    """Settle the chunks whose sources all have a verdict: believe a recipe, or none."""
    final = [
        chunk
        for chunk, each in docket.needs.items()
        if chunk not in docket.verdicts and all(needs.source not in docket.needs for needs in each)
    ]
    for chunk in final:
        believed = (each for each in _as_recorded(docket, chunk) if docket.is_lost(each.source))
        docket.settle(chunk, next(believed, Bad()))
    return bool(final)


def _as_recorded(docket: _Docket, chunk: ChunkId) -> Iterator[Needs]:
    """Yield the recipes that have the checksum of a chunk's record, with its hashes."""
    record = docket.records[chunk]
    for needs in docket.needs[chunk]:
        if record is not None and needs.record.checksum == record.checksum:
            like_record = dataclasses.replace(
                needs.record, digest=record.digest, content_checksum=record.content_checksum
            )
            yield Needs(like_record, needs.source)


def _cut_circle(docket: _Docket) -> bool:
    """Settle one chunk of a circle: one that would be lost anyway, if there is one."""
    chunk = next(iter(docket.needs))
    circle: list[ChunkId] = []
    while chunk not in circle:
        circle.append(chunk)
        sources = (needs.source for needs in docket.needs[chunk])
        chunk = next(source for source in sources if source in docket.needs)
    circle = circle[circle.index(chunk) :]
    lost_anyway = (each for each in circle if not any(_as_recorded(docket, each)))
    docket.settle(next(lost_anyway, circle[0]), Bad())
    return True


RULES: Final[tuple[Callable[[_Docket], bool], ...]] = (
    _judge,
    _take_older_copies,
    _question_sources,
    _prove_sources,
    _believe,
    _cut_circle,
)
