"""Chunks: what the index says of them, and their bytes.

A chunk's content never changes. Its record does: where the bytes lie (gc moves them, a good copy
replaces damaged ones), their form (the optimizer finds smaller ones), how many extents point to it
and how many chunks derive from it. A chunk that nothing needs is dead; it stays readable, and may
be revived, until gc removes its record.
"""

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator, Sequence

import xxhash

from modelfs.codecs import CODECS
from modelfs.codecs.base import Bytes
from modelfs.errors import CorruptChunk, CorruptIndex, CorruptPack
from modelfs.store.chunks.cache import ChunkCache
from modelfs.store.chunks.derive import RecipeReader, is_part
from modelfs.store.chunks.lineage import Lineage
from modelfs.store.chunks.recipe import Recipe, SourceRun
from modelfs.store.chunks.single_flight import SingleFlight
from modelfs.store.chunks.transposed import TransposedParts
from modelfs.store.chunks.verified import Place, VerifiedPlaces
from modelfs.store.disk.descriptors import Descriptor, read_into
from modelfs.store.index.counters import Counters
from modelfs.store.index.index import Index
from modelfs.store.index.records import Chunk, ChunkKind, PackRow
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key
from modelfs.store.packs.pack import Packs, eio_as_corruption

log = logging.getLogger(__name__)


class Chunks:
    """The chunk records of the index, and the bytes behind them."""

    def __init__(
        self, index: Index, packs: Packs, counters: Counters, cache: ChunkCache, hash_seed: int
    ) -> None:
        self._index = index
        self._packs = packs
        self._counters = counters
        self._cache = cache
        self._transposed = TransposedParts(cache)
        self._deriver = RecipeReader(self.load_current, self._load_source, self._transposed)
        self._seed = hash_seed
        self.lineage = Lineage(index)
        self._verified = VerifiedPlaces()
        self._verifying: SingleFlight[Place, None] = SingleFlight()
        self._local = threading.local()

    def digest(self, content: bytes) -> bytes:
        """Return the hash under which content is looked for. It proves nothing: compare."""
        return xxhash.xxh3_128_digest(content, self._seed)

    # -- records

    def find(self, chunk: ChunkId) -> Chunk | None:
        value = self._index.get(Table.CHUNKS, number_key(chunk))
        return None if value is None else Chunk.from_bytes(value)

    def record(self, chunk: ChunkId) -> Chunk:
        """Return a chunk's record.

        Raises:
            CorruptIndex: there is none, though something refers to it.
        """
        if (found := self.find(chunk)) is None:
            raise CorruptIndex(f"chunk {chunk} has no record")
        return found

    def is_unmoved(self, chunk: ChunkId, record: Chunk) -> bool:
        """Whether a chunk still lies where a record says; nothing else changes its bytes."""
        now = self.find(chunk)
        return now is not None and now.place == record.place

    def with_digest(self, digest: bytes) -> Iterator[ChunkId]:
        """Yield the chunks whose content has that hash: none, one, or more if it collides."""
        value = self._index.get(Table.HASHES, digest) or b""
        for at in range(0, len(value), 8):
            yield ChunkId(int.from_bytes(value[at : at + 8], "big"))

    def add(self, chunk: ChunkId, record: Chunk) -> None:
        """Make a chunk known that nothing points to yet."""
        known = self._index.get(Table.HASHES, record.digest) or b""
        self._index.put(Table.HASHES, record.digest, known + number_key(chunk))
        self._put(chunk, None, record)

    def point(self, chunk: ChunkId, uses: int, used: int) -> None:
        """Count `uses` more extents of `used` bytes together; negative for fewer."""
        old = self.record(chunk)
        if old.refs + uses < 0 or old.ref_bytes + used < 0:
            raise CorruptIndex(f"chunk {chunk} would be used {old.refs + uses} times")
        self._put(
            chunk,
            old,
            dataclasses.replace(old, refs=old.refs + uses, ref_bytes=old.ref_bytes + used),
        )

    def move(self, chunk: ChunkId, new: Chunk, sources: Sequence[ChunkId] | None = None) -> None:
        """Say that the chunk's bytes are now where, and in the form that, `new` says.

        Its counts stay. What a derived chunk is derived from is told with a new recipe only.
        """
        old = self.record(chunk)
        if sources is not None or new.kind is not ChunkKind.DERIVED:
            self._link(chunk, sources or ())
        right = dataclasses.replace(
            new, refs=old.refs, ref_bytes=old.ref_bytes, dependants=old.dependants
        )
        self._put(chunk, old, right)

    def mark_optimized(self, chunk: ChunkId, element: int) -> None:
        """Note that the chunk, of such numbers, has its smallest form."""
        old = self.record(chunk)
        self._put(chunk, old, dataclasses.replace(old, optimized=True, element=element))

    def _link(self, chunk: ChunkId, sources: Sequence[ChunkId]) -> int:
        old, new = set(self.lineage.sources(chunk)), set(sources)
        for source in sorted(new - old):
            self.lineage.link(chunk, source)
            self._pin(source, 1)
        for source in sorted(old - new):
            self.lineage.unlink(chunk, source)
            self._pin(source, -1)
        return len(old ^ new)

    def _pin(self, chunk: ChunkId, difference: int) -> None:
        old = self.record(chunk)
        if old.dependants + difference < 0:
            raise CorruptIndex(
                f"chunk {chunk} would be needed by {old.dependants + difference} chunks"
            )
        self._put(chunk, old, dataclasses.replace(old, dependants=old.dependants + difference))

    def remove(self, chunk: ChunkId) -> int:
        """Remove a dead chunk's record, and return from how many others it derived."""
        old = self.record(chunk)
        if old.alive:
            raise CorruptIndex(f"chunk {chunk} is listed as dead, and needed")
        sources = self._link(chunk, ())
        others = [each for each in self.with_digest(old.digest) if each != chunk]
        if others:
            self._index.put(Table.HASHES, old.digest, b"".join(map(number_key, others)))
        else:
            self._index.delete(Table.HASHES, old.digest)
        self._index.delete(Table.CHUNKS, number_key(chunk))
        self._index.delete(Table.DEAD, number_key(chunk))
        self._counters.replace_chunk(old, None)
        self._cache.forget(chunk)
        self._transposed.forget(chunk)
        return sources

    def pack_row(self, pack: PackId) -> PackRow:
        value = self._index.get(Table.PACKS, number_key(pack))
        return PackRow(0, 0) if value is None else PackRow.from_bytes(value)

    def put_pack_row(self, pack: PackId, row: PackRow) -> None:
        self._index.put(Table.PACKS, number_key(pack), row.to_bytes())

    def _put(self, chunk: ChunkId, old: Chunk | None, new: Chunk) -> None:
        key = number_key(chunk)
        self._index.put(Table.CHUNKS, key, new.to_bytes())
        self._list(Table.DEAD, key, was=old is not None and not old.alive, now=not new.alive)
        self._list(Table.BASE_ONLY, key, was=old is not None and old.base_only, now=new.base_only)
        self._counters.replace_chunk(old, new)
        live: dict[PackId, int] = {}
        for record, sign in ((old, -1), (new, 1)):
            if record is not None and record.alive and not record.is_lost:
                live[record.pack] = live.get(record.pack, 0) + sign * record.stored
        for pack, difference in live.items():
            if difference:
                row = self.pack_row(pack)
                self.put_pack_row(pack, dataclasses.replace(row, live=row.live + difference))

    def _list(self, table: Table, key: bytes, *, was: bool, now: bool) -> None:
        if now and not was:
            self._index.put(table, key, b"")
        elif was and not now:
            self._index.delete(table, key)

    # -- bytes; any thread

    def load(self, chunk: ChunkId, record: Chunk) -> bytes:
        """Return a chunk's whole content, checked.

        Raises:
            CorruptChunk: its stored bytes are damaged or missing.
        """
        if record.kind is ChunkKind.PLAIN:
            return self._load_stored(chunk, record)
        return bytes(self._content(chunk, record))  # no copy of what are bytes already

    def read_into(self, chunk: ChunkId, record: Chunk, skip: int, into: memoryview) -> None:
        """Fill `into` with the chunk's content from `skip` on, checked.

        Raises:
            CorruptChunk: its stored bytes are damaged or missing.
        """
        if record.kind is ChunkKind.PLAIN:
            self.warm(chunk, record)
            self._read_plain(chunk, record, skip, into)
        else:
            into[:] = memoryview(self._content(chunk, record))[skip : skip + len(into)]

    def holds(self, chunk: ChunkId, record: Chunk) -> bool:
        """Say whether a chunk can be read without decoding or verifying it first."""
        if record.kind is ChunkKind.PLAIN:
            return self.is_verified(record)
        return self._transposed.holds(chunk) if is_part(record) else self._cache.holds(chunk)

    def peek(self, chunk: ChunkId, record: Chunk) -> Bytes | None:
        """Return the whole content of a chunk that is not plain, if it is in memory."""
        if is_part(record):
            return self._transposed.peek(chunk)
        return self._cache.peek(chunk)

    def warm(self, chunk: ChunkId, record: Chunk) -> None:
        """Verify a plain chunk, or decode any other into memory, for reads that are to come.

        Raises:
            CorruptChunk: its stored bytes are damaged or missing.
        """
        if record.kind is not ChunkKind.PLAIN:
            self._content(chunk, record)
        elif not self.is_verified(record):
            self._verifying.do(_place(record), lambda: self._verify(chunk, record))

    def evict(self, chunk: ChunkId, record: Chunk) -> None:
        """Drop a chunk from the page cache unless several extents need it.

        What derives from it may still want it, but asks for it again only if it is read, too.
        """
        if record.refs <= 1:
            self._cache.forget(chunk)

    def _read_plain(self, chunk: ChunkId, record: Chunk, skip: int, into: memoryview) -> None:
        file = self._descriptor(chunk, record)
        if read_into(file, record.offset + skip, into) < len(into):
            raise CorruptChunk(chunk, f"pack {record.pack} ends inside it")

    def _descriptor(self, chunk: ChunkId, record: Chunk) -> Descriptor:
        try:
            return self._packs.descriptor(record.pack)
        except CorruptPack as exc:
            raise CorruptChunk(chunk, str(exc)) from exc

    def load_anew(self, chunk: ChunkId, record: Chunk) -> bytes:
        """Return a chunk's whole content from its pack, without remembering anything of it.

        For what is not in the index yet, and so may never come to be, and for checking.

        Raises:
            CorruptChunk: its stored bytes are damaged or missing.
        """
        return bytes(self._decoded(chunk, record, self.stored_bytes(chunk, record)))

    def recipe(self, chunk: ChunkId, record: Chunk) -> Recipe:
        """Return what is stored of a derived chunk.

        Raises:
            CorruptChunk: it is damaged or missing.
        """
        try:
            return Recipe.from_bytes(self.stored_bytes(chunk, record))
        except ValueError as exc:
            raise CorruptChunk(chunk, str(exc)) from exc

    def check_content(self, chunk: ChunkId, record: Chunk) -> None:
        """Read a chunk from its pack, and check it as far as it can be.

        Raises:
            CorruptChunk: its stored bytes are damaged or missing, or are not what was hashed.
        """
        if self.digest(self.load_anew(chunk, record)) != record.digest:
            raise CorruptChunk(chunk, "its content does not match its hash")

    def distrust(self, record: Chunk) -> None:
        """Verify these stored bytes anew when they are next read."""
        self._verified.discard(_place(record))

    def is_verified(self, record: Chunk) -> bool:
        """Whether these stored bytes were found good a short time ago."""
        return _place(record) in self._verified

    def _verify(self, chunk: ChunkId, record: Chunk) -> None:
        # Into a buffer that stays: new memory for every chunk costs as much as the hash.
        scratch = getattr(self._local, "scratch", b"")
        if len(scratch) < record.stored:
            scratch = self._local.scratch = bytearray(record.stored)
        view = memoryview(scratch)[: record.stored]
        self._read_plain(chunk, record, 0, view)
        _check(chunk, record, view)
        self._verified.add(_place(record))

    def _load_stored(self, chunk: ChunkId, record: Chunk) -> bytes:
        stored = self.stored_bytes(chunk, record)
        self._verified.add(_place(record))
        return stored

    def stored_bytes(self, chunk: ChunkId, record: Chunk) -> bytes:
        """Return a chunk's bytes as they are stored, checked, without remembering that they are.

        Raises:
            CorruptChunk: they are damaged or missing.
        """
        if record.is_lost:
            raise CorruptChunk(
                chunk, "its bytes are lost; a good copy of the file brings them back"
            )
        try:
            stored = self._packs.read(record.pack, record.offset, record.stored)
        except CorruptPack as exc:
            raise CorruptChunk(chunk, str(exc)) from exc
        _check(chunk, record, stored)
        return stored

    def readable_bytes(self, chunk: ChunkId, record: Chunk) -> bytes | None:
        """Return a chunk's bytes as stored; None, and a line in the log, if they are damaged.

        Raises:
            OSError: the disk failed at more than reading them.
        """
        try:
            with eio_as_corruption():
                return self.stored_bytes(chunk, record)
        except (CorruptChunk, CorruptPack) as exc:
            log.error("chunk %d stays in pack %d: %s", chunk, record.pack, exc)
            return None

    def _content(self, chunk: ChunkId, record: Chunk) -> Bytes:
        # Of a chunk that is not plain.
        if is_part(record):
            return self._part(chunk, record)
        needed = record.refs + record.dependants
        return self._cache.get(chunk, lambda: bytes(self._decode(chunk, record)), needed=needed)

    def _part(self, chunk: ChunkId, record: Chunk) -> Bytes:
        if (content := self._transposed.peek(chunk)) is not None:
            return content
        stored = self._load_stored(chunk, record)
        part = self._decoded(chunk, record, stored)
        self._transposed.note(chunk, record, Recipe.from_bytes(stored))
        return part

    def _decode(self, chunk: ChunkId, record: Chunk) -> Bytes:
        return self._decoded(chunk, record, self._load_stored(chunk, record))

    def _decoded(self, chunk: ChunkId, record: Chunk, stored: bytes) -> Bytes:
        try:
            content: Bytes
            if record.kind is ChunkKind.DERIVED:
                content = self._deriver.content(chunk, record, Recipe.from_bytes(stored))
            else:
                content = CODECS[record.codec].decode(stored, record.size)
        except (KeyError, ValueError) as exc:
            raise CorruptChunk(chunk, str(exc)) from exc
        # That a codec decodes without an error, or that a source is intact, says little.
        if record.content_checksum and xxhash.xxh3_64_intdigest(content) != record.content_checksum:
            raise CorruptChunk(chunk, "it does not decode to what it was made from")
        return content

    def gather(self, runs: Sequence[SourceRun]) -> bytes:
        """Return the content of runs, put together.

        Raises:
            CorruptChunk: a chunk that they are of is damaged or missing, or shorter.
        """
        return self._deriver.gather(runs)

    def load_current(self, chunk: ChunkId) -> bytes:
        """Return a chunk's whole content, wherever it is now.

        Raises:
            CorruptChunk: its stored bytes are damaged or missing.
        """
        return self._current(chunk, self.load)

    def _load_source(self, chunk: ChunkId) -> bytes:
        return self._current(chunk, self._load_once)

    def _load_once(self, chunk: ChunkId, record: Chunk) -> bytes:
        # A chunk from which only one derives is not kept: that one is, and new memory for the
        # source costs more than decoding it again for who reads its own file.
        if record.dependants > 1 or record.kind is ChunkKind.PLAIN or is_part(record):
            return self.load(chunk, record)
        content = self._cache.peek(chunk)
        return bytes(self._decode(chunk, record)) if content is None else content

    def _current(self, chunk: ChunkId, load: Callable[[ChunkId, Chunk], bytes]) -> bytes:
        record = self._needed(chunk)
        try:
            return load(chunk, record)
        except CorruptChunk:
            now = self._needed(chunk)
            if now.place == record.place:
                raise
            return load(chunk, now)  # gc moved it, or the optimizer

    def _needed(self, chunk: ChunkId) -> Chunk:
        try:
            return self.record(chunk)
        except CorruptIndex as exc:
            raise CorruptChunk(chunk, "it has no record that can be read") from exc


def _check(chunk: ChunkId, record: Chunk, stored: bytes | memoryview) -> None:
    if xxhash.xxh3_64_intdigest(stored) != record.checksum:
        where = f"pack {record.pack} at {record.offset}"
        raise CorruptChunk(chunk, f"its stored bytes ({where}) do not match their checksum")


def _place(record: Chunk) -> Place:
    return record.pack, record.offset
