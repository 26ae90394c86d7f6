"""Putting content into chunks: share an equal one, or append a new one to a pack.

Nothing here is visible to readers until the owner of the store takes the result into the index,
which is after the packs were flushed: bytes first, then fsync, then the index.
"""

import contextlib
import dataclasses
import errno
import logging
from dataclasses import dataclass, field
from typing import Final

import xxhash

from modelfs.codecs import CODECS, GENERAL
from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptData
from modelfs.store.chunker import Role
from modelfs.store.chunks import Chunks
from modelfs.store.pack import Packs, Tail
from modelfs.store.records import Chunk, ChunkKind
from modelfs.store.segment import Entry, Segment
from modelfs.store.tables import ChunkId

log = logging.getLogger(__name__)

# A coded chunk costs a decode at every first read, so it has to save something.
CODED_MAX: Final = 0.9
# Enough to see whether bytes that are no tensor can be compressed at all.
SAMPLE: Final = 16 << 10


@dataclass(slots=True)
class Written:
    """What a writer put into packs, for the index to take over."""

    added: dict[ChunkId, Chunk] = field(default_factory=dict)
    moved: dict[ChunkId, Chunk] = field(default_factory=dict)
    tails: dict[int, Tail] = field(default_factory=dict)


class ChunkWriter:
    """Stores content once. One thread at a time, and one writer at a time in a store."""

    def __init__(self, chunks: Chunks, packs: Packs, next_chunk: int) -> None:
        self._chunks = chunks
        self._packs = packs
        self._next = next_chunk
        self._segment = Segment()
        self._contents: dict[ChunkId, bytes] = {}  # of the segment that is not written yet
        self._digests: dict[ChunkId, bytes] = {}  # of the same
        self._by_digest: dict[bytes, list[ChunkId]] = {}
        self._copied: set[ChunkId] = set()
        self.written = Written()

    def put(self, content: bytes, role: Role) -> ChunkId:
        """Return a chunk with that content, an equal one if there is one.

        Raises:
            OSError: the disk is full, or failed at more than reading a chunk to compare with.
        """
        digest = self._chunks.digest(content)
        for chunk in self._by_digest.get(digest, ()):
            if self._load_new(chunk) == content:
                return chunk
        for chunk in self._chunks.with_digest(digest):
            if self._same(chunk, content):
                return chunk
        chunk = ChunkId(self._next)
        self._next += 1
        self._by_digest.setdefault(digest, []).append(chunk)
        self._add(chunk, digest, content, role)
        return chunk

    def copy(self, chunk: ChunkId, record: Chunk, stored: bytes) -> None:
        """Append a chunk's stored bytes once more, for gc to move it there."""
        self._copied.add(chunk)
        self._digests[chunk] = record.digest
        self._segment.add(chunk, record.kind, record.codec, record.size, stored)
        self._write_if_full()

    def finish(self) -> Written:
        """Make everything that was put durable.

        Raises:
            OSError: nothing of it may be taken into the index.
        """
        self._write()
        self._packs.flush()
        return self.written

    def _same(self, chunk: ChunkId, content: bytes) -> bool:
        if (record := self._chunks.find(chunk)) is None or record.size != len(content):
            return False
        try:
            return self._chunks.load(chunk, record) == content
        except CorruptData:
            return self._heal(chunk, record, content)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            log.warning("chunk %d cannot be read, and gets a new copy: %s", chunk, exc)
            return self._heal(chunk, record, content)

    def _heal(self, chunk: ChunkId, record: Chunk, content: bytes) -> bool:
        # The damaged chunk cannot be compared any more. Its size, its content hash and, over what
        # would be stored, its independent checksum (of another seed) all have to match before
        # the copy takes its place. A hash that collides alone makes a chunk of its own.
        codec = GENERAL.get(record.codec)
        if codec is None:
            return False
        stored = codec.encode(content)
        if xxhash.xxh3_64_intdigest(stored) != record.checksum:
            return False
        if chunk not in self._copied:
            kind = ChunkKind.PLAIN if record.codec is CodecId.RAW else ChunkKind.CODED
            self.copy(chunk, dataclasses.replace(record, kind=kind), stored)
        return True

    def _add(self, chunk: ChunkId, digest: bytes, content: bytes, role: Role) -> None:
        stored, codec = _smallest(content) if role is not Role.TENSOR else (content, CodecId.RAW)
        kind = ChunkKind.PLAIN if codec is CodecId.RAW else ChunkKind.CODED
        self._digests[chunk] = digest
        self._contents[chunk] = content
        self._segment.add(chunk, kind, codec, len(content), stored)
        self._write_if_full()

    def _load_new(self, chunk: ChunkId) -> bytes:
        if (content := self._contents.get(chunk)) is not None:
            return content
        # Not remembered: if this writer is given up, the chunk's number is another's.
        return self._chunks.load_anew(chunk, self.written.added[chunk])

    def _write_if_full(self) -> None:
        if self._segment.full:
            self._write()

    def _write(self) -> None:
        if not len(self._segment):
            return
        entries, tail = self._packs.append(self._segment)
        self.written.tails[tail.pack] = tail
        for entry in entries:
            record = _record(entry, tail, self._digests[entry.chunk])
            copied = entry.chunk in self._copied
            (self.written.moved if copied else self.written.added)[entry.chunk] = record
        self._segment = Segment()
        self._contents.clear()
        self._digests.clear()


def _record(entry: Entry, tail: Tail, digest: bytes) -> Chunk:
    return Chunk(
        kind=entry.kind,
        codec=entry.codec,
        size=entry.size,
        pack=tail.pack,
        offset=entry.offset,
        stored=entry.stored,
        uses=0,
        used=0,
        checksum=entry.checksum,
        digest=digest,
    )


def _smallest(content: bytes) -> tuple[bytes, CodecId]:
    codec = GENERAL[CodecId.ZSTD]
    middle = max(0, len(content) - SAMPLE) // 2
    sample = content[middle : middle + SAMPLE]
    with contextlib.suppress(ValueError):
        if len(codec.encode(sample)) <= CODED_MAX * len(sample):
            stored = codec.encode(content)
            if len(stored) <= CODED_MAX * len(content) and _decodes(stored, content):
                return stored, CodecId.ZSTD
    return content, CodecId.RAW


def _decodes(stored: bytes, content: bytes) -> bool:
    # What is not proved to come back is not stored in that form.
    return CODECS[CodecId.ZSTD].decode(stored, len(content)) == content
