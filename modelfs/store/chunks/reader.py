"""The content of chunks: read from packs, decoded, and cached in memory.

Theory of operation. The stored bytes of a plain chunk are its content (see `stored_bytes`). Any
other chunk is decoded whole into `ChunkCache`; a part of a transposed tensor is cut from the
tensor, which is made whole (see `transposed`). Decoded content is compared with its checksum, if
the record has one. Each read follows moves of the chunk, and each chunk that it derives from is
read by its present record.

Example. A request for 300 KiB of a file was planned as chunk 7, a delta to chunk 3, in pack 2. gc
copies chunk 7 to pack 5 and deletes pack 2. Reading 7 fails in pack 2; its record now has pack 5.
The recipe is read there; chunk 3, its source, is read by its present record; 7 is decoded.
"""

from collections.abc import Sequence

import xxhash

from modelfs.codecs import CODECS
from modelfs.codecs.base import Bytes
from modelfs.errors import CorruptChunk
from modelfs.store.chunks.cache import ChunkCache
from modelfs.store.chunks.derive import RecipeReader, is_transposed_part
from modelfs.store.chunks.recipe import Recipe, SourceRun
from modelfs.store.chunks.stored_bytes import StoredBytes
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.chunks.transposed import TransposedParts
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId


class ChunkReader:
    """Reads chunks. Any thread."""

    def __init__(self, table: ChunkTable, stored: StoredBytes, cache: ChunkCache) -> None:
        self.stored = stored
        self._table = table
        self._cache = cache
        self._transposed = TransposedParts(cache)
        self._recipes = RecipeReader(self.read_current, self._read_source, self._transposed)

    # -- content

    def read(self, chunk: ChunkId, record: Chunk) -> bytes:
        """Return a chunk's whole content, checked.

        Raises:
            CorruptChunk: its stored bytes are damaged or missing.
            OSError: the disk failed.
        """
        # `bytes` of bytes is no copy.
        return self.stored.follow_moves(
            chunk, record, lambda current: bytes(self._content(chunk, current))
        )

    def read_into(self, chunk: ChunkId, record: Chunk, skip: int, into: memoryview) -> None:
        """Fill `into` with the chunk's content from byte `skip` on, checked. Raises as `read`."""

        def read(current: Chunk) -> None:
            if current.kind is ChunkKind.PLAIN:
                self.stored.read_plain_into(chunk, current, skip, into)
            else:
                into[:] = memoryview(self._content(chunk, current))[skip : skip + len(into)]

        self.stored.follow_moves(chunk, record, read)

    def read_current(self, chunk: ChunkId) -> bytes:
        """Return a chunk's whole content by its present record. Raises as `read`."""
        return self.read(chunk, self.stored.current_record(chunk))

    def read_uncached(self, chunk: ChunkId, record: Chunk) -> bytes:
        """Return a chunk's whole content from exactly the place in `record`.

        The chunk's content is neither taken from memory nor kept there: for records that are not in
        the index, and for checks of the disk.

        Raises:
            CorruptChunk: its stored bytes are damaged or missing.
            OSError: the disk failed.
        """
        return bytes(self._decode(chunk, record, self.stored.read(chunk, record)))

    def check(self, chunk: ChunkId, record: Chunk) -> None:
        """Read a chunk from its pack, decode it, and compare it with its hash.

        Raises:
            CorruptChunk: its stored bytes are damaged or missing, or its content has another hash.
            OSError: the disk failed.
        """
        if self._table.digest(self.read_uncached(chunk, record)) != record.digest:
            raise CorruptChunk(chunk, "its content does not match its hash")

    def gather(self, runs: Sequence[SourceRun]) -> bytes:
        """Return the content of runs, joined.

        Raises:
            CorruptChunk: a chunk of the runs is damaged, missing, or shorter than its run.
            OSError: the disk failed.
        """
        return self._recipes.gather(runs)

    # -- memory

    def is_ready(self, chunk: ChunkId, record: Chunk) -> bool:
        """Whether a chunk can be read without verifying or decoding it first."""
        if record.kind is ChunkKind.PLAIN:
            return self.stored.is_verified(record)
        if is_transposed_part(record):
            return self._transposed.holds(chunk)
        return self._cache.holds(chunk)

    def peek(self, chunk: ChunkId, record: Chunk) -> Bytes | None:
        """Return the whole content of a chunk that is not plain, if it is in memory."""
        if is_transposed_part(record):
            return self._transposed.peek(chunk)
        return self._cache.peek(chunk)

    def warm(self, chunk: ChunkId, record: Chunk) -> None:
        """Verify a plain chunk, or decode any other chunk into memory, for later reads.

        Raises:
            CorruptChunk: its stored bytes are damaged or missing.
            OSError: the disk failed.
        """

        def warm(current: Chunk) -> None:
            if current.kind is ChunkKind.PLAIN:
                self.stored.verify(chunk, current)
            else:
                self._content(chunk, current)

        self.stored.follow_moves(chunk, record, warm)

    def evict(self, chunk: ChunkId, record: Chunk) -> None:
        """Drop a chunk from the cache, unless several extents refer to it.

        Chunks that derive from it do not count: they need it again only if they are read.
        """
        if record.refs <= 1:
            self._cache.forget(chunk)

    def forget(self, chunk: ChunkId) -> None:
        """Drop a chunk from memory: its record was removed, or its number has other content now."""
        self._cache.forget(chunk)
        self._transposed.forget(chunk)

    def forget_all(self) -> None:
        """Drop all chunks from memory, and verify all places once more when they are read."""
        self._cache.clear()
        self._transposed.clear()
        self.stored.distrust_all()

    # -- decoding

    def _content(self, chunk: ChunkId, record: Chunk) -> Bytes:
        """Return a chunk's content; unless it is plain, from memory if it is there."""
        if record.kind is ChunkKind.PLAIN:
            return self.stored.read_plain(chunk, record)
        if not is_transposed_part(record):
            sharers = record.refs + record.dependants
            return self._cache.get(
                chunk, lambda: bytes(self._read_decoded(chunk, record)), sharers=sharers
            )
        if (content := self._transposed.peek(chunk)) is not None:
            return content
        stored = self.stored.read(chunk, record)
        part = self._decode(chunk, record, stored)
        self._transposed.remember(chunk, record, Recipe.from_bytes(stored))
        return part

    def _read_decoded(self, chunk: ChunkId, record: Chunk) -> Bytes:
        return self._decode(chunk, record, self.stored.read(chunk, record))

    def _decode(self, chunk: ChunkId, record: Chunk, stored: bytes) -> Bytes:
        try:
            content: Bytes
            if record.kind is ChunkKind.DERIVED:
                content = self._recipes.content(chunk, record, Recipe.from_bytes(stored))
            else:
                content = CODECS[record.codec].decode(stored, record.size)
        except (KeyError, ValueError) as exc:
            raise CorruptChunk(chunk, str(exc)) from exc
        # The codec's success does not prove that the content is right, nor does an intact source.
        if record.content_checksum and xxhash.xxh3_64_intdigest(content) != record.content_checksum:
            raise CorruptChunk(chunk, "it does not decode to the content it was encoded from")
        return content

    def _read_source(self, chunk: ChunkId) -> bytes:
        """Return the content of a source chunk, whose derived chunk is cached."""

        def read(current: Chunk) -> bytes:
            plain = current.kind is ChunkKind.PLAIN
            if current.dependants > 1 or plain or is_transposed_part(current):
                return bytes(self._content(chunk, current))
            # The source of only one chunk is not cached. That chunk is, and the memory for the
            # source costs more than decoding it again for a reader of its own file.
            content = self._cache.peek(chunk)
            return bytes(self._read_decoded(chunk, current)) if content is None else content

        return self.stored.follow_moves(chunk, self.stored.current_record(chunk), read)
