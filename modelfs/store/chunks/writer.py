"""Writing chunks: content shares an equal chunk, or becomes a new chunk at the end of a pack.

gc and defragmentation move chunks by the same writer, and the optimizer gives them new forms by it.
A reader sees nothing of this until the owner publishes the result in the index. That comes after
the packs were flushed: bytes first, then fsync, then the index.

Example. A file has three pieces A, B and A; chunk 3 already has the content of B. `put` of A makes
chunk 8, `put` of B returns 3 after it compared the bytes, and the second A finds 8 in the writer.
`finish` writes and flushes one segment with chunk 8, and `publish` then adds the record of 8.
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
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId, PackId
from modelfs.store.packs.pack import Packs, Tail
from modelfs.store.packs.segment import Segment

log = logging.getLogger(__name__)

RAW: Final = CodecId.RAW

# The most that a coded chunk may take of its plain size: decoding it costs time at each first read.
CODED_MAX: Final = 0.9
# Bytes compressed as a sample: enough to see whether content that is no tensor is compressible.
SAMPLE: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The records of chunks that a writer appended, for `Publisher.publish`."""

    added: Mapping[ChunkId, Chunk]
    moved: Mapping[ChunkId, Chunk]
    sources: Mapping[ChunkId, tuple[ChunkId, ...]]  # of moved chunks with a new form
    tails: tuple[Tail, ...]  # the new ends of the packs


class ChunkWriter:
    """Stores equal content once. One thread at a time, and one writer at a time in a store."""

    def __init__(
        self,
        chunks: ChunkTable,
        reader: ChunkReader,
        packs: Packs,
        next_chunk: int,
        *,
        for_gc: bool = False,
    ) -> None:
        """Begin with the number of the next new chunk; `for_gc` is as of `Packs.append`."""
        self._for_gc = for_gc
        self._chunks = chunks
        self._reader = reader
        self._packs = packs
        self._next = next_chunk
        self._segment = Segment(packs.segment_size)
        self._contents: dict[ChunkId, bytes] = {}  # new chunks of the segment in memory
        self._records: dict[ChunkId, Chunk] = {}  # of all its chunks, still without a place
        self._by_digest: dict[bytes, list[ChunkId]] = {}  # the new chunks of this writer
        self._moving: set[ChunkId] = set()  # chunks that are not new
        self._added: dict[ChunkId, Chunk] = {}
        self._moved: dict[ChunkId, Chunk] = {}
        self._sources: dict[ChunkId, tuple[ChunkId, ...]] = {}
        self._tails: dict[PackId, Tail] = {}

    def put(self, content: bytes, *, compress: bool) -> ChunkId:
        """Return a chunk with this content: an equal one if there is one, or a new one.

        Args:
            content: of the chunk.
            compress: store it compressed if that saves enough. False for tensors: they are stored
                plain, which is fast, and optimized later.

        Raises:
            StoreFull: the disk has no space.
            OSError: the disk failed; but EIO at reading a chunk to compare with is no error.
        """
        digest = self._chunks.digest(content)
        if (equal := self._find(content, digest)) is not None:
            return equal
        chunk = ChunkId(self._next)
        self._next += 1
        self._by_digest.setdefault(digest, []).append(chunk)
        self._contents[chunk] = content
        stored, codec = _compressed(content) if compress else (content, RAW)
        empty = Chunk(ChunkKind.PLAIN, RAW, 0, PackId(0), 0, 0, 0, 0, 0, digest)
        self._append(chunk, _in_form(empty, content, codec), stored)
        return chunk

    def find(self, content: bytes) -> ChunkId | None:
        """Return the chunk that `put` would return if that adds none, None if it would add one.

        Raises:
            OSError: the disk failed, as of `put`.
        """
        return self._find(content, self._chunks.digest(content))

    def _find(self, content: bytes, digest: bytes) -> ChunkId | None:
        for chunk in self._by_digest.get(digest, ()):
            other = self._contents.get(chunk)
            if other is None:
                # Uncached: if this writer is rolled back, the chunk's number is used again.
                other = self._reader.read_uncached(chunk, self._added[chunk])
            if other == content:
                return chunk
        for chunk in self._chunks.with_digest(digest):
            if self._has_content(chunk, content):
                return chunk
        return None

    def copy(self, chunk: ChunkId, record: Chunk, stored: bytes) -> None:
        """Append a chunk's stored bytes once more, to move the chunk to the new place.

        Raises:
            StoreFull, OSError: as `put`.
        """
        self._moving.add(chunk)
        self._append(chunk, record, stored)

    def replace(
        self, chunk: ChunkId, record: Chunk, stored: bytes, sources: tuple[ChunkId, ...]
    ) -> None:
        """Append a chunk in a new form.

        Args:
            chunk: the chunk.
            record: its record, with the kind and codec of the new form.
            stored: the bytes of the new form.
            sources: the chunks that the new form derives from.

        Raises:
            StoreFull, OSError: as `put`.
        """
        self._sources[chunk] = sources
        self.copy(chunk, record, stored)

    def _append(self, chunk: ChunkId, record: Chunk, stored: bytes) -> None:
        self._records[chunk] = record
        self._segment.add(chunk, record.kind, record.codec, record.size, stored)
        if self._segment.full:
            self._write()

    def finish(self) -> WriteResult:
        """Make all appended chunks durable.

        Raises:
            StoreFull, OSError: the disk is full or failed; the writer has to be rolled back.
        """
        self._write()
        self._packs.flush()
        tails = tuple(self._tails.values())
        return WriteResult(self._added, self._moved, self._sources, tails)

    def _has_content(self, chunk: ChunkId, content: bytes) -> bool:
        """Whether an existing chunk has this content. Heals it if it is damaged."""
        if (record := self._chunks.find(chunk)) is None or record.size != len(content):
            return False
        try:
            if self._reader.read(chunk, record) != content:
                return False
            # The content may come from memory, and the bytes on the disk be damaged since.
            self._reader.stored.check(chunk, record)
        except CorruptData:
            return self._heal(chunk, record, content)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            log.warning("chunk %d cannot be read, and gets a new copy: %s", chunk, exc)
            return self._heal(chunk, record, content)
        return True

    def _heal(self, chunk: ChunkId, record: Chunk, content: bytes) -> bool:
        """Store content in the place of a damaged chunk; False if it is not the chunk's content."""
        # The damaged bytes cannot be compared. So the size, the content hash and an independent
        # checksum (of another seed) all have to match. Content whose hash merely collides gets a
        # chunk of its own.
        if record.content_checksum:
            is_content = xxhash.xxh3_64_intdigest(content) == record.content_checksum
        else:
            # A record of format 1 has only the checksum of the stored bytes: encode once more.
            codec = GENERAL.get(record.codec)
            is_content = codec is not None and (
                xxhash.xxh3_64_intdigest(codec.encode(content)) == record.checksum
            )
        if is_content and chunk not in self._moving:
            compress = record.codec is CodecId.ZSTD
            stored, form = _compressed(content) if compress else (content, RAW)
            self.replace(chunk, _in_form(record, content, form), stored, ())
        return is_content

    def _write(self) -> None:
        if not len(self._segment):
            return
        entries, tail = self._packs.append(self._segment, for_gc=self._for_gc)
        self._tails[tail.pack] = tail
        for entry in entries:
            records = self._moved if entry.chunk in self._moving else self._added
            records[entry.chunk] = dataclasses.replace(
                self._records[entry.chunk],
                pack=tail.pack,
                offset=entry.offset,
                stored=entry.stored,
                checksum=entry.checksum,
            )
        self._segment = Segment(self._packs.segment_size)
        self._contents.clear()
        self._records.clear()


def _in_form(record: Chunk, content: bytes, codec: CodecId) -> Chunk:
    """Return a record for `content`, in a form that needs no other chunk."""
    return dataclasses.replace(
        record,
        kind=ChunkKind.PLAIN if codec is RAW else ChunkKind.CODED,
        codec=codec,
        size=len(content),
        content_checksum=xxhash.xxh3_64_intdigest(content),
        optimized=False,
    )


def _compressed(content: bytes) -> tuple[bytes, CodecId]:
    """Return the stored form of content, compressed if that saves enough."""
    codec = GENERAL[CodecId.ZSTD]
    middle = max(0, len(content) - SAMPLE) // 2
    sample = content[middle : middle + SAMPLE]
    with contextlib.suppress(ValueError):
        if len(codec.encode(sample)) <= CODED_MAX * len(sample):
            stored = codec.encode(content)
            is_smaller = len(stored) <= CODED_MAX * len(content)
            # Decode and compare before this form is stored in the place of the plain one.
            if is_smaller and CODECS[CodecId.ZSTD].decode(stored, len(content)) == content:
                return stored, CodecId.ZSTD
    return content, RAW
