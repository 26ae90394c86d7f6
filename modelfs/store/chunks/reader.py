"""The bytes of chunks: read from packs, verified or decoded, and cached in memory.

Theory of operation. A chunk's record has the place of its stored bytes and the codec to decode them
with. Bytes of a plain chunk are read straight from its pack once its checksum was verified;
`Verified` remembers that for a minute. Any other chunk is decoded whole into `ChunkCache`; a
part of a transposed tensor is cut from the tensor, which is made whole (see `transposed`).

gc and the optimizer move chunks between the plan of a read and the read. Then the record of the
plan names an old place, maybe in a pack that was deleted. So a read that fails with `CorruptChunk`
looks the record up once more, and reads from the new place if there is one (`follow_moves`). A move
never changes the content.

Example. A request for 300 KiB of a file was planned as chunk 7, a delta to chunk 3, in pack 2. gc
copies chunk 7 to pack 5 and deletes pack 2. Reading 7 fails in pack 2; its record now has pack 5.
The recipe is read there; chunk 3, its source, is read by its present record; 7 is decoded.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import xxhash

from modelfs.codecs import CODECS
from modelfs.codecs.base import Bytes
from modelfs.errors import CorruptChunk, CorruptIndex, CorruptPack
from modelfs.store.chunks.cache import ChunkCache
from modelfs.store.chunks.derive import RecipeReader, is_transposed_part
from modelfs.store.chunks.form import form_problem
from modelfs.store.chunks.recipe import Recipe, SourceRun
from modelfs.store.chunks.single_flight import SingleFlight
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.chunks.transposed import TransposedParts
from modelfs.store.chunks.verified import Place, Verified
from modelfs.store.disk.descriptors import read_into
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId
from modelfs.store.packs.pack import Packs, eio_as_corruption

log = logging.getLogger(__name__)

T = TypeVar("T")


class ChunkReader:
    """Reads chunks. Any thread."""

    def __init__(self, table: ChunkTable, packs: Packs, cache: ChunkCache, chunk_size: int) -> None:
        """Make a reader of a store whose chunks have at most `chunk_size` bytes."""
        self._chunk_size = chunk_size
        self._table = table
        self._packs = packs
        self._cache = cache
        self._transposed = TransposedParts(cache)
        self._recipes = RecipeReader(self.read_current, self._read_source, self._transposed)
        self._verified: Verified[Place] = Verified()
        self._verifying: SingleFlight[Place, None] = SingleFlight()
        self._local = threading.local()

    # -- content

    def read(self, chunk: ChunkId, record: Chunk) -> bytes:
        """Return a chunk's whole content, checked.

        Raises:
            CorruptChunk: its stored bytes are damaged or missing.
            OSError: the disk failed.
        """
        return self.follow_moves(chunk, record, lambda current: self._read(chunk, current))

    def read_into(self, chunk: ChunkId, record: Chunk, skip: int, into: memoryview) -> None:
        """Fill `into` with the chunk's content from byte `skip` on, checked. Raises as `read`."""

        def read(current: Chunk) -> None:
            if current.kind is ChunkKind.PLAIN:
                if len(into) == current.stored and not self.is_verified(current):
                    self._verify_in(into, chunk, current)  # without a copy from a buffer
                    return
                self._warm(chunk, current)
                self._read_plain(chunk, current, skip, into)
            else:
                into[:] = memoryview(self._content(chunk, current))[skip : skip + len(into)]

        self.follow_moves(chunk, record, read)

    def read_current(self, chunk: ChunkId) -> bytes:
        """Return a chunk's whole content by its present record. Raises as `read`."""
        return self.read(chunk, self._current_record(chunk))

    def read_uncached(self, chunk: ChunkId, record: Chunk) -> bytes:
        """Return a chunk's whole content from exactly the place in `record`.

        The chunk's content is neither taken from memory nor kept there: for records that are not in
        the index, and for checks of the disk.

        Raises:
            CorruptChunk: its stored bytes are damaged or missing.
            OSError: the disk failed.
        """
        return bytes(self._decode(chunk, record, self.stored_bytes(chunk, record)))

    def gather(self, runs: Sequence[SourceRun]) -> bytes:
        """Return the content of runs, joined.

        Raises:
            CorruptChunk: a chunk of the runs is damaged, missing, or shorter than its run.
            OSError: the disk failed.
        """
        return self._recipes.gather(runs)

    def follow_moves(self, chunk: ChunkId, record: Chunk, read: Callable[[Chunk], T]) -> T:
        """Read by a record; if that fails and the chunk was moved since, by the present record."""
        try:
            return read(record)
        except CorruptChunk:
            current = self._table.find(chunk)
            if current is None or current.place == record.place:
                raise
        return read(current)

    def _read(self, chunk: ChunkId, record: Chunk) -> bytes:
        if record.kind is ChunkKind.PLAIN:
            return self._stored_bytes_verified(chunk, record)
        return bytes(self._content(chunk, record))  # no copy if they are bytes already

    def _current_record(self, chunk: ChunkId) -> Chunk:
        try:
            return self._table.record(chunk)
        except CorruptIndex as exc:
            raise CorruptChunk(chunk, "its record is missing or damaged") from exc

    # -- memory

    def is_ready(self, chunk: ChunkId, record: Chunk) -> bool:
        """Whether a chunk can be read without verifying or decoding it first."""
        if record.kind is ChunkKind.PLAIN:
            return self.is_verified(record)
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
        self.follow_moves(chunk, record, lambda current: self._warm(chunk, current))

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
        self._verified.clear()

    def is_verified(self, record: Chunk) -> bool:
        """Whether the stored bytes matched their checksum a short time ago."""
        return record.place in self._verified

    def distrust(self, record: Chunk) -> None:
        """Verify the stored bytes once more when they are next read."""
        self._verified.discard(record.place)

    def _warm(self, chunk: ChunkId, record: Chunk) -> None:
        if record.kind is not ChunkKind.PLAIN:
            self._content(chunk, record)
        elif not self.is_verified(record):
            self._verifying.do(record.place, lambda: self._verify(chunk, record))

    def _verify(self, chunk: ChunkId, record: Chunk) -> None:
        self._check_form(chunk, record)
        # A buffer for each thread: allocating memory for every chunk costs as much as the hash.
        scratch = getattr(self._local, "scratch", b"")
        if len(scratch) < record.stored:
            scratch = self._local.scratch = bytearray(record.stored)
        self._verify_in(memoryview(scratch)[: record.stored], chunk, record)

    def _verify_in(self, buffer: memoryview, chunk: ChunkId, record: Chunk) -> None:
        self._read_plain(chunk, record, 0, buffer)
        _check(chunk, record, buffer)
        self._verified.add(record.place)

    # -- stored bytes

    def stored_bytes(self, chunk: ChunkId, record: Chunk) -> bytes:
        """Return a chunk's stored bytes, checked against their checksum. Nothing is cached.

        Raises:
            CorruptChunk: they are damaged or missing.
            OSError: the disk failed.
        """
        if record.is_lost:
            raise CorruptChunk(chunk, "its bytes are lost; a good copy of the file restores them")
        self._check_form(chunk, record)
        try:
            stored = self._packs.read(record.pack, record.offset, record.stored)
        except CorruptPack as exc:
            raise CorruptChunk(chunk, str(exc)) from exc
        _check(chunk, record, stored)
        return stored

    def _check_form(self, chunk: ChunkId, record: Chunk) -> None:
        if (problem := form_problem(record, self._chunk_size)) is not None:
            raise CorruptChunk(chunk, problem)

    def readable_bytes(self, chunk: ChunkId, record: Chunk) -> bytes | None:
        """Return a chunk's stored bytes; if they are damaged, log that and return None.

        Raises:
            OSError: the disk failed with another error than EIO.
        """
        try:
            with eio_as_corruption():
                return self.stored_bytes(chunk, record)
        except (CorruptChunk, CorruptPack) as exc:
            log.error("%s; chunk %d stays in pack %d", exc, chunk, record.pack)
            return None

    def recipe(self, chunk: ChunkId, record: Chunk) -> Recipe:
        """Return the recipe of a derived chunk.

        Raises:
            CorruptChunk: it is damaged or missing.
            OSError: the disk failed.
        """
        try:
            return Recipe.from_bytes(self.stored_bytes(chunk, record))
        except ValueError as exc:
            raise CorruptChunk(chunk, str(exc)) from exc

    def check_stored(self, chunk: ChunkId, record: Chunk) -> None:
        """Check the stored bytes that a chunk is decoded from, past all caches.

        Those of its sources, too, and of theirs. Decodes nothing: it costs reading and a hash. A
        plain chunk is left out, since each `read` of the whole chunk checks it.

        Raises:
            CorruptChunk: they are damaged or missing.
            OSError: the disk failed.
        """
        if record.kind is ChunkKind.PLAIN:
            return
        checked: set[ChunkId] = set()
        pending = {chunk: record}
        while pending:
            number, present = pending.popitem()
            checked.add(number)
            sources = self.follow_moves(number, present, partial(self._checked_sources, number))
            pending |= {source: self._current_record(source) for source in sources - checked}

    def _checked_sources(self, chunk: ChunkId, record: Chunk) -> set[ChunkId]:
        """Check the stored bytes of a chunk, and return the chunks that it derives from."""
        if record.kind is ChunkKind.DERIVED:
            return set(self.recipe(chunk, record).sources)
        self.stored_bytes(chunk, record)
        return set()

    def check_content(self, chunk: ChunkId, record: Chunk) -> None:
        """Read a chunk from its pack, decode it, and compare it with its hash.

        Raises:
            CorruptChunk: its stored bytes are damaged or missing, or its content has another hash.
            OSError: the disk failed.
        """
        if self._table.digest(self.read_uncached(chunk, record)) != record.digest:
            raise CorruptChunk(chunk, "its content does not match its hash")

    def _read_plain(self, chunk: ChunkId, record: Chunk, skip: int, into: memoryview) -> None:
        try:
            file = self._packs.descriptor(record.pack)
        except CorruptPack as exc:
            raise CorruptChunk(chunk, str(exc)) from exc
        if read_into(file, record.offset + skip, into) < len(into):
            raise CorruptChunk(chunk, f"pack {record.pack} ends inside it")

    def _stored_bytes_verified(self, chunk: ChunkId, record: Chunk) -> bytes:
        stored = self.stored_bytes(chunk, record)
        self._verified.add(record.place)
        return stored

    # -- decoding

    def _content(self, chunk: ChunkId, record: Chunk) -> Bytes:
        """Return the content of a chunk that is not plain, from memory if it is there."""
        if not is_transposed_part(record):
            sharers = record.refs + record.dependants
            return self._cache.get(
                chunk, lambda: bytes(self._read_decoded(chunk, record)), sharers=sharers
            )
        if (content := self._transposed.peek(chunk)) is not None:
            return content
        stored = self._stored_bytes_verified(chunk, record)
        part = self._decode(chunk, record, stored)
        self._transposed.remember(chunk, record, Recipe.from_bytes(stored))
        return part

    def _read_decoded(self, chunk: ChunkId, record: Chunk) -> Bytes:
        return self._decode(chunk, record, self._stored_bytes_verified(chunk, record))

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
                return self._read(chunk, current)
            # The source of only one chunk is not cached. That chunk is, and the memory for the
            # source costs more than decoding it again for a reader of its own file.
            content = self._cache.peek(chunk)
            return bytes(self._read_decoded(chunk, current)) if content is None else content

        return self.follow_moves(chunk, self._current_record(chunk), read)


def _check(chunk: ChunkId, record: Chunk, stored: bytes | memoryview) -> None:
    if xxhash.xxh3_64_intdigest(stored) != record.checksum:
        place = f"pack {record.pack} at {record.offset}"
        raise CorruptChunk(chunk, f"its stored bytes ({place}) do not match their checksum")
