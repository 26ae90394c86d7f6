"""Evidence on a chunk: the records by which it might be read, and the verdict on each of them.

A candidate for a chunk is the record of the index, or an entry for the chunk in a segment table of
any pack. The record comes first, then newer packs and whole segments. A candidate's stored bytes
are read and decoded. The content is the chunk's in one of three cases:

- the table of hashes leads from its hash to the chunk;
- the record of the index has that hash;
- the record and a segment table agree in all but the hash.

Example. The record of chunk 5 leads to pack 2, where a byte has flipped. Pack 1 has an older copy::

    candidate                 verdict
    the record                Bad: the stored bytes do not match their checksum
    the entry of pack 2       Bad: the same bytes
    the entry of pack 1       Intact: its content has the hash of the record
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

from modelfs.errors import CorruptChunk, CorruptData
from modelfs.jobs.check.packs import entry_of
from modelfs.jobs.repair.pack_files import PackState
from modelfs.store.chunks.form import form_problem
from modelfs.store.index.chunk_records import UNKNOWN, Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId, PackId
from modelfs.store.store import Store


@dataclass(frozen=True, slots=True)
class Intact:
    """The content was read, and is the chunk's. The record is right, except for its use counts."""

    record: Chunk


@dataclass(frozen=True, slots=True)
class Needs:
    """A recipe with a source that cannot be read. As a last verdict: the source is lost."""

    record: Chunk
    source: ChunkId


@dataclass(frozen=True, slots=True)
class Bad:
    """The stored bytes cannot be read, or are not the chunk's."""


Verdict = Intact | Needs | Bad


@dataclass(frozen=True, slots=True)
class Evidence:
    """A store's packs, as their segment tables describe them."""

    store: Store
    packs: dict[PackId, PackState]
    damaged: set[PackId]  # their intact chunks are copied to another pack

    def confirms(self, chunk: ChunkId, record: Chunk) -> bool:
        """Whether the table of a whole segment has just that record."""
        return entry_of(chunk, record) in self.packs[record.pack].entries.get(chunk, [])

    def is_safe(self, chunk: ChunkId, record: Chunk) -> bool:
        """Whether a chunk can stay in the place that its record names."""
        return record.pack not in self.damaged and self.confirms(chunk, record)

    def form_problem(self, record: Chunk) -> str | None:
        return form_problem(record, self.store.superblock.chunk_size)


def candidates(evidence: Evidence, chunk: ChunkId, record: Chunk | None) -> Iterator[Chunk]:
    """Yield records by which the chunk might be read; `record` is that of the index."""
    if record is not None and not record.is_lost:
        yield dataclasses.replace(record, content_checksum=0)  # which may be the damaged field
    for pack in sorted(evidence.packs, reverse=True):
        for entry in evidence.packs[pack].entries_of(chunk):
            yield Chunk(
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
    complete = with_hashes(evidence, candidate, content)
    return Intact(complete) if _is_of(evidence, chunk, record, complete) else Bad()


def with_hashes(evidence: Evidence, candidate: Chunk, content: bytes) -> Chunk:
    """Return a candidate with the digest and the checksum of its content."""
    digest = evidence.store.chunks.digest(content)
    checksum = xxhash.xxh3_64_intdigest(content)
    return dataclasses.replace(candidate, digest=digest, content_checksum=checksum)


def _is_of(evidence: Evidence, chunk: ChunkId, record: Chunk | None, candidate: Chunk) -> bool:
    """Return whether the content of a candidate, whose hashes are set, is the chunk's."""
    if chunk in evidence.store.chunks.with_digest(candidate.digest):
        return True
    if record is None:
        return False  # the number in the segment table may be damaged
    if candidate.digest == record.digest:
        return True
    # A recipe decodes to some content with any sources, right ones or wrong ones.
    is_derived = candidate.kind is ChunkKind.DERIVED
    if is_derived and candidate.content_checksum != record.content_checksum:
        return False
    # The record's place and checksum alone may be those of another chunk.
    return candidate.checksum == record.checksum and evidence.confirms(chunk, candidate)
