"""The chunk reader: checks of content, and decoded chunks in memory."""

import dataclasses

import pytest

from modelfs.errors import CorruptChunk
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.tables import Table, number_key
from modelfs.store.store import Store
from tests.support.derived_chunks import HALF, chunk_at, derive, halves, pair
from tests.support.put_chunks import TEXT, load, put
from tests.support.stores import CHUNK, content_of, noise, overwrite, pack_path, stored_file


@pytest.mark.parametrize("count", [1, 2])
def test_a_source_of_one_chunk_is_not_cached(opened: Store, count: int) -> None:
    """Only a source of several chunks is cached beside them."""
    text = b"".join(b"line %d\n" % number for number in range(CHUNK))[:CHUNK]
    base = chunk_at(opened, stored_file(opened, b"base", text))
    assert opened.chunks.record(base).kind is ChunkKind.CODED
    for number in range(count):
        part = chunk_at(opened, stored_file(opened, b"%d" % number, text[number : number + HALF]))
        derive(opened, part, (base, number, HALF))
    for chunk in (base, part):
        opened.cache.forget(chunk)
    assert opened.chunk_reader.read_current(part) == text[number : number + HALF]
    kept = opened.chunk_reader.peek(base, opened.chunks.record(base))
    assert kept == (None if count == 1 else text)


def test_another_content_of_the_right_size_is_damage(opened: Store) -> None:
    """A recipe that yields the right number of bytes may still yield the wrong ones."""
    base, part = halves(opened, 1)
    derive(opened, part, (base, 1, HALF))
    with pytest.raises(CorruptChunk, match="does not decode to the content"):
        opened.chunk_reader.read_current(part)
    stored_file(opened, b"good", noise(CHUNK)[:HALF])


def test_a_shared_chunk_stays_in_memory_behind_a_reader(opened: Store) -> None:
    """A reader that has read a chunk to its end drops it, unless another extent refers to it."""
    text = TEXT * 2
    one = stored_file(opened, b"one", text)
    chunk = chunk_at(opened, one)
    for sharers in (1, 2):
        content_of(opened, one)
        record = opened.chunks.record(chunk)
        assert record.refs == sharers
        opened.chunk_reader.evict(chunk, record)
        assert opened.chunk_reader.is_ready(chunk, record) == (sharers == 2)
        if sharers == 1:
            stored_file(opened, b"two", text)


def test_a_source_without_a_record_is_damage_of_the_source(opened: Store) -> None:
    """A read of a derived chunk names the source whose record is gone."""
    _, part, base, chunk = pair(opened)
    key = number_key(base)
    row = opened.index.get(Table.CHUNKS, key)
    assert row is not None
    with opened.index.change():
        opened.index.delete(Table.CHUNKS, key)
    opened.chunk_reader.forget(chunk)
    with pytest.raises(CorruptChunk, match="record is missing") as caught:
        content_of(opened, part)
    assert (caught.value.chunk, caught.value.base) == (chunk, base)
    with opened.index.change():
        opened.index.put(Table.CHUNKS, key, row)
    assert content_of(opened, part) == noise(CHUNK)[:HALF]


def test_a_check_of_content_reads_the_disk(opened: Store) -> None:
    """A check neither trusts an earlier verification nor fills the cache."""
    (chunk,) = put(opened, TEXT, compress=True)
    record = opened.chunks.record(chunk)
    opened.chunk_reader.check(chunk, record)
    assert opened.chunk_reader.peek(chunk, record) is None
    assert load(opened, chunk) == TEXT
    path = pack_path(opened.packs, record.pack)
    whole = path.read_bytes()
    overwrite(path, record.offset + 5, b"damaged")
    with pytest.raises(CorruptChunk):
        opened.chunk_reader.check(chunk, record)
    wrong = dataclasses.replace(record, digest=bytes(16))
    path.write_bytes(whole)
    with pytest.raises(CorruptChunk, match="does not match its hash"):
        opened.chunk_reader.check(chunk, wrong)
