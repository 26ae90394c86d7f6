"""Derived chunks: content by a recipe, and damage of the recipe and of its sources."""

import pytest

from modelfs.errors import CorruptChunk
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId
from modelfs.store.store import Store
from tests.support.derived_chunks import HALF, chunk_at, derive, halves, pair, spoil
from tests.support.stores import CHUNK, Box, content_of, noise, stored_file


def test_a_derived_chunk_has_its_old_content(box: Box) -> None:
    """It reads the same whole, in parts and after a crash, and takes a few bytes on disk."""
    _, part, base, chunk = pair(box.store)
    record = box.store.chunks.record(chunk)
    assert (record.kind, record.stored, record.size) == (ChunkKind.DERIVED, 20, HALF)
    assert box.store.chunks.record(base).dependants == 1
    assert content_of(box.store, part) == noise(CHUNK)[:HALF]
    store = box.crash()
    assert store.contents.read(part, 100, 50) == noise(CHUNK)[100:150]
    assert content_of(store, part) == noise(CHUNK)[:HALF]


def test_many_runs_are_joined(opened: Store) -> None:
    """A recipe may have runs of several chunks, and several of one, in any order."""
    one, two = noise(CHUNK, 1), noise(CHUNK, 2)
    chunks = [chunk_at(opened, stored_file(opened, content[:8], content)) for content in (one, two)]
    mixed = two[100:200] + one[:1000] + two[:50] + one[1000:1001]
    inode = stored_file(opened, b"mixed", mixed)
    runs = (chunks[1], 100, 100), (chunks[0], 0, 1000), (chunks[1], 0, 50), (chunks[0], 1000, 1)
    derive(opened, chunk_at(opened, inode), *runs)
    assert content_of(opened, inode) == mixed
    assert sorted(opened.chunks.lineage.sources(chunk_at(opened, inode))) == sorted(chunks)


def test_a_damaged_source_is_named(opened: Store) -> None:
    """The error of a read names the damaged chunk, and the chunk that derives from it."""
    base_file, part, base, chunk = pair(opened)
    spoil(opened, base)
    with pytest.raises(CorruptChunk) as caught:
        content_of(opened, part)
    assert (caught.value.chunk, caught.value.base) == (chunk, base)
    assert f"chunk {base}: its stored bytes" in str(caught.value)
    stored_file(opened, b"good", noise(CHUNK))
    assert content_of(opened, base_file) == noise(CHUNK)
    assert content_of(opened, part) == noise(CHUNK)[:HALF]


def test_a_run_past_the_end_of_its_source_is_damage(opened: Store) -> None:
    """A recipe with a run past the end of its source is damaged itself."""
    base, part = halves(opened, 1)
    derive(opened, part, (base, HALF + 1, HALF))
    with pytest.raises(CorruptChunk, match="has no bytes") as caught:
        opened.chunk_reader.read_current(part)
    assert caught.value.base == part
    stored_file(opened, b"good", noise(CHUNK)[:HALF])


def test_a_source_in_pieces_is_decoded_once(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk made of many runs of two others loads each of them once."""
    text = b"".join(b"line %d\n" % number for number in range(CHUNK))
    pieces = [text[:CHUNK], text[CHUNK : 2 * CHUNK]]
    bases = [
        chunk_at(opened, stored_file(opened, b"%d" % n, piece)) for n, piece in enumerate(pieces)
    ]
    mixed = b"".join(piece[at : at + 64] for at in range(0, HALF, 64) for piece in pieces)
    runs = [(base, at, 64) for at in range(0, HALF, 64) for base in bases]
    part = chunk_at(opened, stored_file(opened, b"mixed", mixed))
    derive(opened, part, *runs)
    for chunk in (*bases, part):
        opened.cache.forget(chunk)
    asked: list[ChunkId] = []
    real = opened.stored_bytes.read

    def counted(chunk: ChunkId, record: Chunk) -> bytes:
        asked.append(chunk)
        return real(chunk, record)

    monkeypatch.setattr(opened.stored_bytes, "read", counted)
    assert opened.chunk_reader.read_current(part) == mixed
    assert sorted(asked) == sorted((*bases, part))


def test_a_chunk_that_derives_from_itself_is_damage(opened: Store) -> None:
    """A cycle of recipes ends in an error, not in a deadlock."""
    one, two = noise(CHUNK), noise(CHUNK)[HALF:] + noise(CHUNK)[:HALF]
    chunks = [chunk_at(opened, stored_file(opened, content[:8], content)) for content in (one, two)]
    for chunk, source in (chunks, chunks[::-1]):
        derive(opened, chunk, (source, HALF, HALF), (source, 0, HALF))
    for chunk in chunks:
        with pytest.raises(CorruptChunk, match="derives from itself"):
            opened.chunk_reader.read_current(chunk)
    for content in (one, two):
        stored_file(opened, content[8:16], content)
