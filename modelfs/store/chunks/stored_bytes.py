"""The stored bytes of chunks: read from packs, and verified.

Theory of operation. A chunk's record has the place of its stored bytes, and their checksum. Bytes
that are decoded are read whole, and checked each time. Those of a plain chunk are its content, and
are read in parts, which have no checksums. So the whole chunk is verified before the first part is
read, once for all threads that want it; `Verified` remembers its place for a minute.

gc and the optimizer move chunks between the plan of a read and the read. Then the record of the
plan names an old place, maybe in a pack that was deleted. So a read that fails with `CorruptChunk`
looks the record up once more, and reads from the new place if there is one (`follow_moves`). A move
never changes the content.

Example. Chunk 7 is plain, 1 MiB at 8 KiB in pack 2. The first read of 64 KiB of it reads and hashes
the whole chunk, and the place (2, 8192) is verified. The next 15 reads read 64 KiB each. gc copies
the chunk to pack 5 and deletes pack 2. A read that was planned before fails in pack 2; the record
has pack 5 now, at a place that is not verified. The whole chunk is read and hashed once more.
"""

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import xxhash

from modelfs.errors import CorruptChunk, CorruptIndex, CorruptPack
from modelfs.store.chunks.form import form_problem
from modelfs.store.chunks.recipe import Recipe
from modelfs.store.chunks.single_flight import SingleFlight
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.chunks.verified import Place, Verified
from modelfs.store.disk.descriptors import Descriptor, read_into
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId
from modelfs.store.packs.pack import Packs, eio_as_corruption

log = logging.getLogger(__name__)

T = TypeVar("T")


class StoredBytes:
    """The stored bytes of all chunks. Any thread."""

    def __init__(self, table: ChunkTable, packs: Packs, chunk_size: int) -> None:
        """Open the stored bytes of a store whose chunks have at most `chunk_size` bytes."""
        self._table = table
        self._packs = packs
        self._chunk_size = chunk_size
        self._verified: Verified[Place] = Verified()
        self._verifying: SingleFlight[Place, None] = SingleFlight()
        self._local = threading.local()

    # -- places

    def follow_moves(self, chunk: ChunkId, record: Chunk, read: Callable[[Chunk], T]) -> T:
        """Read by a record; if that fails and the chunk was moved since, by the present record."""
        try:
            return read(record)
        except CorruptChunk:
            current = self._table.find(chunk)
            if current is None or current.place == record.place:
                raise
        return read(current)

    def current_record(self, chunk: ChunkId) -> Chunk:
        """Return the present record of a chunk.

        Raises:
            CorruptChunk: it is missing or damaged.
        """
        try:
            return self._table.record(chunk)
        except CorruptIndex as exc:
            raise CorruptChunk(chunk, "its record is missing or damaged") from exc

    # -- whole chunks

    def read(self, chunk: ChunkId, record: Chunk) -> bytes:
        """Return a chunk's stored bytes, checked against their checksum.

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

    def read_if_intact(self, chunk: ChunkId, record: Chunk) -> bytes | None:
        """Return a chunk's stored bytes; if they are damaged, log that and return None.

        Raises:
            OSError: the disk failed with another error than EIO.
        """
        try:
            with eio_as_corruption():
                return self.read(chunk, record)
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
            return Recipe.from_bytes(self.read(chunk, record))
        except ValueError as exc:
            raise CorruptChunk(chunk, str(exc)) from exc

    def check(self, chunk: ChunkId, record: Chunk) -> None:
        """Check the stored bytes that a chunk is decoded from, past all caches.

        Those of its sources, too, and of theirs. Decodes nothing: it costs reading and a hash. A
        plain chunk is left out, since each read of the whole chunk checks it.

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
            pending |= {source: self.current_record(source) for source in sources - checked}

    def _checked_sources(self, chunk: ChunkId, record: Chunk) -> set[ChunkId]:
        """Check the stored bytes of a chunk, and return the chunks that it derives from."""
        if record.kind is ChunkKind.DERIVED:
            return set(self.recipe(chunk, record).sources)
        self.read(chunk, record)
        return set()

    # -- plain chunks

    def is_verified(self, record: Chunk) -> bool:
        """Whether the stored bytes matched their checksum a short time ago."""
        return record.place in self._verified

    def verified_file(self, record: Chunk) -> Descriptor | None:
        """Return the file with a plain chunk that was verified a short time ago, else None."""
        if record.place not in self._verified:
            return None
        try:
            return self._packs.descriptor(record.pack)
        except CorruptPack:
            return None  # an error of the read, which follows moves and names the chunk

    def distrust(self, record: Chunk) -> None:
        """Verify the stored bytes once more when they are next read."""
        self._verified.discard(record.place)

    def distrust_all(self) -> None:
        """Verify the stored bytes of every chunk once more when they are next read."""
        self._verified.clear()

    def verify(self, chunk: ChunkId, record: Chunk) -> None:
        """Verify a plain chunk, unless that was done a short time ago. Raises as `read`."""
        if not self.is_verified(record):
            self._verifying.do(record.place, lambda: self._verify(chunk, record))

    def _verify(self, chunk: ChunkId, record: Chunk) -> None:
        self._check_form(chunk, record)
        # A buffer for each thread: allocating memory for every chunk costs as much as the hash.
        scratch = getattr(self._local, "scratch", b"")
        if len(scratch) < record.stored:
            scratch = self._local.scratch = bytearray(record.stored)
        self._read_and_verify(chunk, record, memoryview(scratch)[: record.stored])

    def read_plain(self, chunk: ChunkId, record: Chunk) -> bytes:
        """Return a plain chunk's bytes, and remember that they were verified. Raises as `read`."""
        stored = self.read(chunk, record)
        self._verified.add(record.place)
        return stored

    def read_plain_into(self, chunk: ChunkId, record: Chunk, skip: int, into: memoryview) -> None:
        """Fill `into` with a plain chunk's bytes from `skip` on, verified. Raises as `read`."""
        if len(into) == record.stored and not self.is_verified(record):
            self._read_and_verify(chunk, record, into)  # without a copy from a buffer
            return
        self.verify(chunk, record)
        self._read_part(chunk, record, skip, into)

    def _read_and_verify(self, chunk: ChunkId, record: Chunk, into: memoryview) -> None:
        self._read_part(chunk, record, 0, into)
        _check(chunk, record, into)
        self._verified.add(record.place)

    def _read_part(self, chunk: ChunkId, record: Chunk, skip: int, into: memoryview) -> None:
        try:
            file = self._packs.descriptor(record.pack)
        except CorruptPack as exc:
            raise CorruptChunk(chunk, str(exc)) from exc
        if read_into(file, record.offset + skip, into) < len(into):
            raise CorruptChunk(chunk, f"pack {record.pack} ends inside it")

    def _check_form(self, chunk: ChunkId, record: Chunk) -> None:
        if (problem := form_problem(record, self._chunk_size)) is not None:
            raise CorruptChunk(chunk, problem)


def _check(chunk: ChunkId, record: Chunk, stored: bytes | memoryview) -> None:
    if xxhash.xxh3_64_intdigest(stored) != record.checksum:
        place = f"pack {record.pack} at {record.offset}"
        raise CorruptChunk(chunk, f"its stored bytes ({place}) do not match their checksum")
