"""Transposed tensors: made whole, once, and read in parts."""

import dataclasses
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from modelfs.codecs import transpose
from modelfs.codecs.base import CodecId
from modelfs.codecs.zstd import Zstd
from modelfs.errors import CorruptChunk
from modelfs.jobs.check.fsck import check
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.quarantine import Quarantine
from modelfs.store.chunks.recipe import Recipe, SourceRun
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import ChunkId, InodeNumber, PackId
from modelfs.store.store import Store
from tests.support.run_jobs import drain
from tests.support.stores import (
    CHUNK,
    check_closed,
    content_of,
    model_of,
    noise,
    overwrite,
    pack_path,
    stored_file,
)

ROWS, COLUMNS = 64, 640
SIZE = ROWS * COLUMNS
GEOMETRY = transpose.Geometry(1, 1, ROWS, COLUMNS)
SOURCE = bytes(value & 15 for value in noise(SIZE))  # so that coded chunks are smaller
TURNED = np.frombuffer(SOURCE, np.uint8).reshape(ROWS, COLUMNS).T.tobytes()
MODEL = model_of(TURNED)

Whole = Callable[[bytes, transpose.Geometry], bytes]


def tensor_of(store: Store, inode: InodeNumber) -> list[Extent]:
    """Return the extents of a model's only tensor."""
    size = store.contents.node(inode).size
    return list(store.maps.overlapping(inode, size - SIZE, size))


class Rewriting:
    """Stores chunks once more, in forms that a test chooses."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writer = store.writer()

    def coded(self, chunk: ChunkId) -> None:
        self._replace(chunk, ChunkKind.CODED, CodecId.ZSTD, Zstd().encode(self._content(chunk)))

    def turned(self, chunk: ChunkId, recipe: Recipe) -> None:
        self._replace(
            chunk, ChunkKind.DERIVED, CodecId.TRANSPOSE, recipe.to_bytes(), recipe.sources
        )

    def finish(self) -> None:
        drain(self._store.publish(self._writer.finish()))
        self._store.commit()

    def _content(self, chunk: ChunkId) -> bytes:
        return self._store.chunk_reader.read(chunk, self._store.chunks.record(chunk))

    def _replace(
        self,
        chunk: ChunkId,
        kind: ChunkKind,
        codec: CodecId,
        stored: bytes,
        sources: tuple[ChunkId, ...] = (),
    ) -> None:
        record = dataclasses.replace(self._store.chunks.record(chunk), kind=kind, codec=codec)
        self._writer.replace(chunk, record, stored, sources)


def fill(store: Store, geometry: transpose.Geometry = GEOMETRY) -> None:
    """Store a tensor in coded chunks, and its transposed one in chunks derived from these."""
    source = stored_file(store, b"source", model_of(SOURCE))
    turned = stored_file(store, b"turned", MODEL)
    rewriting = Rewriting(store)
    runs = []
    for extent in tensor_of(store, source):
        rewriting.coded(extent.chunk)
        runs.append(SourceRun(extent.chunk, extent.skip, extent.length))
    start = len(MODEL) - SIZE
    for extent in tensor_of(store, turned):
        payload = transpose.encode(geometry, extent.start - start)
        rewriting.turned(extent.chunk, Recipe(tuple(runs), payload))
    rewriting.finish()


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    """A store with a transposed tensor of ten chunks, and a cache for four of them."""
    with Store(folder) as filled:
        fill(filled)
    with Store(folder, cache_size=4 * CHUNK) as store:
        yield store
        assert check(store, data=True) == []
    assert check_closed(folder) == []


@pytest.fixture
def turned(store: Store) -> InodeNumber:
    return store.namespace.lookup(InodeNumber(1), b"turned")


@pytest.fixture
def wholes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item for each time that a tensor is transposed."""
    calls: list[int] = []
    real = transpose.whole

    def whole(source: bytes, geometry: transpose.Geometry) -> bytes:
        calls.append(len(source))
        return real(source, geometry)

    monkeypatch.setattr(transpose, "whole", whole)
    return calls


def test_repair_makes_a_tensor_again(store: Store, turned: InodeNumber, wholes: list[int]) -> None:
    """After repair has changed the record of a source, no part is read from the old tensor."""
    assert content_of(store, turned) == MODEL
    source = store.namespace.lookup(InodeNumber(1), b"source")
    chunk = tensor_of(store, source)[0].chunk
    record = store.chunks.record(chunk)
    lost = dataclasses.replace(
        record, kind=ChunkKind.LOST, codec=CodecId.RAW, pack=PackId(0), offset=0, stored=0
    )
    context = RepairContext(store, Quarantine(store.directory), Reported())

    def lose_and_read() -> None:
        with store.index.change():  # undone, as the read raises
            context.put_chunk(chunk, lost)
            content_of(store, turned)

    with pytest.raises(CorruptChunk):
        lose_and_read()
    assert content_of(store, turned) == MODEL
    assert len(wholes) == 2


def order(name: str) -> list[int]:
    starts = list(range(0, len(MODEL), CHUNK // 2))
    if name == "random":
        random.Random(1).shuffle(starts)
    return starts[::-1] if name == "backwards" else starts


@pytest.mark.parametrize("name", ["in order", "backwards", "random"])
def test_a_pass_makes_the_tensor_once(
    store: Store, turned: InodeNumber, wholes: list[int], name: str
) -> None:
    """However a tensor larger than the cache is read, it is transposed once, as a whole."""
    for start in order(name):
        part = store.contents.read(turned, start, CHUNK // 2)
        assert part == MODEL[start : start + CHUNK // 2]
    assert wholes == [SIZE]


def test_threads_make_it_once(
    store: Store, turned: InodeNumber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that read different parts at once wait for one to make the whole tensor."""
    calls: list[int] = []
    begun, go_on = threading.Event(), threading.Event()
    real = transpose.whole

    def whole(source: bytes, geometry: transpose.Geometry) -> bytes:
        calls.append(len(source))
        begun.set()
        assert go_on.wait(30)
        return real(source, geometry)

    def read(start: int) -> bytes:
        return store.contents.read(turned, start, CHUNK)

    monkeypatch.setattr(transpose, "whole", whole)
    starts = [start for start in order("in order") if start >= len(MODEL) - SIZE][:8]
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(read, starts[0])
        assert begun.wait(30)
        others = [pool.submit(read, start) for start in starts[1:]]
        go_on.set()
        for start, got in zip(starts, (first, *others), strict=True):
            assert got.result() == MODEL[start : start + CHUNK]
    assert calls == [SIZE]


def test_parts_are_no_entries(store: Store, turned: InodeNumber) -> None:
    """The cache holds the tensor once, and not its chunks as well."""
    assert content_of(store, turned) == MODEL
    assert store.cache.statistics().bytes == SIZE


def test_parts_of_a_cached_tensor_are_in_memory(store: Store, turned: InodeNumber) -> None:
    """`peek` finds a part that was read before, while its tensor is in the cache."""
    extent, *_ = tensor_of(store, turned)
    record = store.chunks.record(extent.chunk)
    assert store.chunk_reader.peek(extent.chunk, record) is None
    content = store.chunk_reader.read(extent.chunk, record)
    assert store.chunk_reader.peek(extent.chunk, record) == content
    others = store.namespace.lookup(InodeNumber(1), b"source")
    assert content_of(store, others) == model_of(SOURCE)
    assert store.chunk_reader.peek(extent.chunk, record) is None


def test_check_makes_it_once(store: Store, wholes: list[int]) -> None:
    """A check of all data transposes the tensor once."""
    assert check(store, data=True) == []
    assert wholes == [SIZE]


def damage(store: Store, record: Chunk) -> None:
    path = pack_path(store.packs, record.pack)
    overwrite(path, record.offset + record.stored // 2, bytes(8))


def test_a_damaged_source_fails_every_part(folder: Path) -> None:
    """Each part needs all of the source; the error names the part and the damaged chunk."""
    with Store(folder) as store:
        fill(store)
    with Store(folder, read_only=True) as store:
        source, turned = (
            store.namespace.lookup(InodeNumber(1), name) for name in (b"source", b"turned")
        )
        damaged = tensor_of(store, source)[3].chunk
        damage(store, store.chunks.record(damaged))
        for extent in tensor_of(store, turned):
            with pytest.raises(CorruptChunk, match=f"chunk {extent.chunk}.*chunk {damaged}"):
                store.contents.read(turned, extent.start, extent.length)


def test_a_wrong_recipe_is_found(folder: Path) -> None:
    """A part with wrong content is an error at each read, and is not remembered."""
    with Store(folder) as store:
        fill(store, transpose.Geometry(1, 1, COLUMNS, ROWS))
        turned = store.namespace.lookup(InodeNumber(1), b"turned")
        extent, *_ = tensor_of(store, turned)
        record = store.chunks.record(extent.chunk)
        for _ in range(2):
            with pytest.raises(CorruptChunk, match="does not decode to the content"):
                store.chunk_reader.read(extent.chunk, record)
            assert store.chunk_reader.peek(extent.chunk, record) is None


@pytest.mark.parametrize("payload", [b"", bytes(20), transpose.encode(GEOMETRY, SIZE - 5)])
def test_a_recipe_that_makes_no_sense(store: Store, turned: InodeNumber, payload: bytes) -> None:
    """A damaged geometry, or a part beyond the tensor's end, is an error like any damage."""
    extent, *_ = tensor_of(store, turned)
    record = store.chunks.record(extent.chunk)
    recipe = Recipe.from_bytes(store.stored_bytes.read(extent.chunk, record))
    broken = Recipe(recipe.runs, payload).to_bytes()
    with pytest.raises(CorruptChunk):
        store.chunk_reader._decode(extent.chunk, record, broken)
