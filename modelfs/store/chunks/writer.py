"""Putting content into chunks: share an equal one, or append a new one to a pack.

What is moved, by gc or page packing, or gets a new form, from the optimizer, goes the same way.
Nothing here is visible to readers until the owner of the store takes the result into the index,
which is after the packs were flushed: bytes first, then fsync, then the index.
"""

import contextlib
import dataclasses
import errno
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import xxhash

from modelfs.codecs import CODECS, GENERAL
from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptData
from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.index.records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId, PackId
from modelfs.store.packs.pack import Packs, Tail
from modelfs.store.packs.segment import Entry, Segment

log = logging.getLogger(__name__)

RAW: Final = CodecId.RAW

# A coded chunk costs a decode at every first read, so it has to save something.
CODED_MAX: Final = 0.9
# Enough to see whether bytes that are no tensor can be compressed at all.
SAMPLE: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a writer put into packs, for `Publisher.publish`."""

    added: Mapping[ChunkId, Chunk]
    moved: Mapping[ChunkId, Chunk]
    sources: Mapping[ChunkId, tuple[ChunkId, ...]]  # of moved chunks with a new form
    tails: tuple[Tail, ...]  # how far the packs reach


class ChunkWriter:
    """Stores content once. One thread at a time, and one writer at a time in a store."""

    def __init__(
        self, chunks: ChunkTable, reader: ChunkReader, packs: Packs, next_chunk: int
    ) -> None:
        self._chunks = chunks
        self._reader = reader
        self._packs = packs
        self._next = next_chunk
        self._segment = Segment()
        self._contents: dict[ChunkId, bytes] = {}  # of the segment that is not written yet
        self._records: dict[ChunkId, Chunk] = {}  # of the same, but for their places
        self._by_digest: dict[bytes, list[ChunkId]] = {}
        self._copied: set[ChunkId] = set()
        self._added: dict[ChunkId, Chunk] = {}
        self._moved: dict[ChunkId, Chunk] = {}
        self._sources: dict[ChunkId, tuple[ChunkId, ...]] = {}
        self._tails: dict[PackId, Tail] = {}

    def put(self, content: bytes, *, compress: bool) -> ChunkId:
        """Return a chunk with that content, an equal one if there is one.

        Args:
            content: of the chunk.
            compress: store it smaller if that pays. Tensors are stored plain, which is fast, and
                optimized later.

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
        self._add(chunk, digest, content, compress=compress)
        return chunk

    def copy(self, chunk: ChunkId, record: Chunk, stored: bytes) -> None:
        """Append a chunk's stored bytes once more, for gc or page packing to move it there."""
        self._copied.add(chunk)
        self._append(chunk, record, stored)

    def replace(
        self, chunk: ChunkId, record: Chunk, stored: bytes, sources: tuple[ChunkId, ...]
    ) -> None:
        """Append a chunk in a new form, of the kind and codec that `record` now has."""
        self._sources[chunk] = sources
        self.copy(chunk, record, stored)

    def _append(self, chunk: ChunkId, record: Chunk, stored: bytes) -> None:
        self._records[chunk] = record
        self._segment.add(chunk, record.kind, record.codec, record.size, stored)
        if self._segment.full:
            self._write()

    def finish(self) -> WriteResult:
        """Make everything that was put durable.

        Raises:
            OSError: nothing of it may be taken into the index.
        """
        self._write()
        self._packs.flush()
        tails = tuple(self._tails.values())
        return WriteResult(self._added, self._moved, self._sources, tails)

    def _same(self, chunk: ChunkId, content: bytes) -> bool:
        if (record := self._chunks.find(chunk)) is None or record.size != len(content):
            return False
        try:
            return self._reader.read(chunk, record) == content
        except CorruptData:
            return self._heal(chunk, record, content)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            log.warning("chunk %d cannot be read, and gets a new copy: %s", chunk, exc)
            return self._heal(chunk, record, content)

    def _heal(self, chunk: ChunkId, record: Chunk, content: bytes) -> bool:
        # The damaged chunk cannot be compared any more. Its size, its content hash and an
        # independent checksum (of another seed) all have to match before the copy takes its place.
        # A hash that collides alone makes a chunk of its own.
        if not _proves(record, content):
            return False
        if chunk not in self._copied:
            stored, codec = _smallest(content) if record.codec is CodecId.ZSTD else (content, RAW)
            self.replace(chunk, _like(record, content, codec), stored, ())
        return True

    def _add(self, chunk: ChunkId, digest: bytes, content: bytes, *, compress: bool) -> None:
        stored, codec = _smallest(content) if compress else (content, RAW)
        self._contents[chunk] = content
        self._append(chunk, _like(_nowhere(digest), content, codec), stored)

    def _load_new(self, chunk: ChunkId) -> bytes:
        if (content := self._contents.get(chunk)) is not None:
            return content
        # Not remembered: if this writer is given up, the chunk's number is another's.
        return self._reader.read_anew(chunk, self._added[chunk])

    def _write(self) -> None:
        if not len(self._segment):
            return
        entries, tail = self._packs.append(self._segment)
        self._tails[tail.pack] = tail
        for entry in entries:
            record = _placed(self._records[entry.chunk], entry, tail)
            records = self._moved if entry.chunk in self._copied else self._added
            records[entry.chunk] = record
        self._segment = Segment()
        self._contents.clear()
        self._records.clear()


def _nowhere(digest: bytes) -> Chunk:
    nowhere = PackId(0)
    return Chunk(ChunkKind.PLAIN, RAW, 0, nowhere, 0, 0, 0, 0, 0, digest)


def _like(record: Chunk, content: bytes, codec: CodecId) -> Chunk:
    """Return a record of the same content in a form that needs no other chunk."""
    return dataclasses.replace(
        record,
        kind=ChunkKind.PLAIN if codec is RAW else ChunkKind.CODED,
        codec=codec,
        size=len(content),
        content_checksum=xxhash.xxh3_64_intdigest(content),
        optimized=False,
    )


def _placed(record: Chunk, entry: Entry, tail: Tail) -> Chunk:
    return dataclasses.replace(
        record,
        pack=tail.pack,
        offset=entry.offset,
        stored=entry.stored,
        checksum=entry.checksum,
    )


def _proves(record: Chunk, content: bytes) -> bool:
    if record.content_checksum:
        return xxhash.xxh3_64_intdigest(content) == record.content_checksum
    # Of format 1: what would be stored has a checksum.
    codec = GENERAL.get(record.codec)
    return codec is not None and xxhash.xxh3_64_intdigest(codec.encode(content)) == record.checksum


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
