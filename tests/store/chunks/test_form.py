"""The bounds of forms: a hostile store takes neither memory nor time."""

import dataclasses
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptChunk
from modelfs.store.chunks.derive import STACK_MAX
from modelfs.store.chunks.form import SOURCE_RATIO, TENSOR_MAX, check_source
from modelfs.store.chunks.recipe import Recipe, SourceRun
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId
from modelfs.store.store import Store
from tests.support.put_chunks import put
from tests.support.run_jobs import drain
from tests.support.stores import CHUNK, noise


@pytest.fixture
def hostile(folder: Path) -> Iterator[Store]:
    """A store that need not be sound at the end."""
    store = Store(folder)
    yield store
    store.abandon()


def forge(store: Store, chunk: ChunkId, stored: bytes, **fields: object) -> Chunk:
    """Give a chunk stored bytes and a record that no modelfs would write, and return the record."""
    writer = store.writer()
    record = dataclasses.replace(store.chunks.record(chunk), content_checksum=0, **fields)  # type: ignore[arg-type]
    writer.copy(chunk, record, stored)
    drain(store.publish(writer.finish()))
    return store.chunks.record(chunk)


def recipe(*runs: tuple[ChunkId, int, int], payload: bytes = b"") -> bytes:
    return Recipe(tuple(SourceRun(*run) for run in runs), payload).to_bytes()


def peak_of_failed_read(store: Store, chunk: ChunkId, problem: str) -> int:
    """Read a chunk, which fails with a problem, and return the most memory that it took."""
    tracemalloc.start()
    try:
        with pytest.raises(CorruptChunk, match=problem):
            store.chunk_reader.read_current(chunk)
        with pytest.raises(CorruptChunk, match=problem):
            store.chunk_reader.read_uncached(chunk, store.chunks.record(chunk))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_few_bytes_are_no_gigabytes(hostile: Store) -> None:
    """A record with a size above the store's chunk size is refused."""
    (chunk,) = put(hostile, b"content")
    forge(hostile, chunk, b"\1\0\0\0\0", kind=ChunkKind.CODED, codec=CodecId.REPEAT, size=1 << 31)
    assert peak_of_failed_read(hostile, chunk, "its size is 2147483648") < 10 << 20


def test_a_plain_chunk_is_as_long_as_its_size(hostile: Store) -> None:
    """A record with more stored bytes than content is refused before they are read."""
    (chunk,) = put(hostile, b"content")
    record = forge(hostile, chunk, b"content")
    with hostile.index.change():
        hostile.chunks.move(chunk, dataclasses.replace(record, stored=1 << 31))
    assert peak_of_failed_read(hostile, chunk, "7 bytes stored in 2147483648") < 10 << 20
    with pytest.raises(CorruptChunk, match="stored in"):
        hostile.chunk_reader.warm(chunk, hostile.chunks.record(chunk))


@pytest.mark.parametrize("codec", [CodecId.GATHER, CodecId.DELTA, CodecId.CAST, CodecId.QUANTISE])
def test_a_source_is_not_listed_again_and_again(hostile: Store, codec: CodecId) -> None:
    """A recipe whose runs are far longer than the chunk is refused before a source is read."""
    source, chunk = put(hostile, noise(CHUNK), noise(CHUNK, 1))
    runs = [(source, 0, CHUNK)] * (SOURCE_RATIO + 1)
    forge(hostile, chunk, recipe(*runs), kind=ChunkKind.DERIVED, codec=codec)
    assert peak_of_failed_read(hostile, chunk, "derived from") < 10 << 20


def test_a_transposed_tensor_is_bounded() -> None:
    """The source of a transposed tensor has at most the longest tensor that is transposed."""
    record = Chunk(ChunkKind.DERIVED, CodecId.TRANSPOSE, 1, 0, 0, 0, 0, 0, 0, b"")  # type: ignore[arg-type]
    runs = [SourceRun(ChunkId(1), 0, 1 << 20)] * (TENSOR_MAX >> 20)
    check_source(record, runs)
    with pytest.raises(ValueError, match="derived from"):
        check_source(record, [*runs, runs[0]])


def test_a_chain_ends(hostile: Store) -> None:
    """A chain of any length is refused as damage, and the shorter ones below it read right."""
    content = noise(1000)
    chunks = put(hostile, content, *(content[number:] for number in range(1, 200)))
    for number in range(1, 200):
        stored = recipe((chunks[number - 1], 1, 1000 - number))
        forge(hostile, chunks[number], stored, kind=ChunkKind.DERIVED, codec=CodecId.GATHER)
    for number in (1, STACK_MAX):
        assert hostile.chunk_reader.read_current(chunks[number]) == content[number:]
    hostile.chunk_reader.forget_all()
    with pytest.raises(CorruptChunk, match=f"more than {STACK_MAX} steps"):
        hostile.chunk_reader.read_current(chunks[-1])


@pytest.mark.parametrize("length", [2, 3, 5])
def test_threads_do_not_wait_in_a_circle(hostile: Store, length: int) -> None:
    """Readers of chunks that derive from each other all get an error, also at the same time."""
    chunks = put(hostile, *(noise(1000, number) for number in range(length)))
    for number, chunk in enumerate(chunks):
        stored = recipe((chunks[(number + 1) % length], 0, 1000))
        forge(hostile, chunk, stored, kind=ChunkKind.DERIVED, codec=CodecId.GATHER)
    for _ in range(5):
        failed: list[ChunkId] = []

        def read(chunk: ChunkId, failed: list[ChunkId] = failed) -> None:
            with pytest.raises(CorruptChunk):
                hostile.chunk_reader.read_current(chunk)
            failed.append(chunk)

        threads = [
            threading.Thread(target=read, args=(chunks[number % length],), daemon=True)
            for number in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(failed) == 16


def test_what_the_optimizer_makes_is_within_bounds(hostile: Store) -> None:
    """A cast from the widest element to the narrowest has exactly the longest source."""
    record = dataclasses.replace(
        hostile.chunks.record(put(hostile, b"12345678")[0]),
        kind=ChunkKind.DERIVED,
        codec=CodecId.CAST,
    )
    check_source(record, [SourceRun(ChunkId(1), 0, 8 * SOURCE_RATIO)])
    with pytest.raises(ValueError, match="8 bytes derived from 65"):
        check_source(record, [SourceRun(ChunkId(1), 0, 8 * SOURCE_RATIO + 1)])
