"""Publish: a writer's result enters the index, a slice at a time."""

import pytest

from modelfs.store.chunks import publish
from modelfs.store.chunks.writer import WriteResult
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.counters import NEXT_CHUNK, NEXT_PACK
from modelfs.store.index.tables import ChunkId, PackId
from modelfs.store.packs import pack as pack_module
from modelfs.store.packs import segment as segment_module
from modelfs.store.packs.segment import PAGE
from modelfs.store.store import Store
from tests.support.derived_chunks import HALF, derive, halves
from tests.support.put_chunks import load, put
from tests.support.run_jobs import collect, drain
from tests.support.stores import CHUNK, Box, noise, pack_path


def test_a_slice_counts_sources(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of chunks with many sources, a slice publishes fewer."""
    base, *parts = halves(opened, 4)
    for part in parts:
        derive(opened, part, (base, parts.index(part), HALF))
    moved = dict.fromkeys(parts, opened.chunks.record(base))
    result = WriteResult({}, moved, {parts[0]: tuple(parts)}, ())
    for size, first in ((3, parts[:1]), (6, parts[:2])):
        monkeypatch.setattr(publish, "SLICE", size)
        assert first_slice(opened, result) == first


def first_slice(store: Store, result: WriteResult) -> list[ChunkId]:
    """Return the chunks moved in the first slice."""
    asked: list[ChunkId] = []

    def refuse(chunk: ChunkId, _: Chunk) -> bool:
        asked.append(chunk)
        return False

    next(store.publish(result, refuse))
    return asked


def test_a_copy_of_a_removed_chunk_is_not_published(opened: Store) -> None:
    """A chunk may be removed while it is copied; its number is not used again."""
    chunks = put(opened, *(noise(100, seed) for seed in range(5)))
    record = opened.chunks.record(chunks[0])
    stored = opened.stored_bytes.read(chunks[0], record)
    writer = opened.writer()
    drain(opened.reclaimer.remove_dead())
    writer.copy(chunks[0], record, stored)
    drain(opened.publish(writer.finish()))
    assert opened.chunks.find(chunks[0]) is None
    assert put(opened, noise(7)) == [chunks[-1] + 1]


def test_the_first_slice_has_the_ends_of_packs_and_all_numbers(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between two slices leaves bytes that gc removes, and no number is used twice."""
    monkeypatch.setattr(publish, "SLICE", 2)
    store = box.store
    writer = store.writer()
    chunks = [writer.put(noise(100, seed), compress=False) for seed in range(5)]
    slices = store.publish(writer.finish())
    next(slices)
    assert [store.chunks.find(chunk) is not None for chunk in chunks] == [True] * 2 + [False] * 3
    assert store.counters.get(NEXT_CHUNK) == chunks[-1] + 1
    assert store.counters.get(NEXT_PACK) == 2
    stop = store.chunks.pack_row(PackId(1)).stop
    store.commit()
    store = box.crash()
    assert pack_path(store.packs, 1).stat().st_size == stop
    assert put(store, noise(100, 4)) == [chunks[-1] + 1]
    collect(store)
    assert store.packs.numbers() == set()


def test_slices_are_all_of_a_result(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With slices of any size every chunk is entered, and there is a pause between two slices."""
    for number, size in enumerate((1, 2, 3, 5, 99)):
        monkeypatch.setattr(publish, "SLICE", size)
        writer = opened.writer()
        chunks = [writer.put(noise(100, 5 * number + at), compress=False) for at in range(5)]
        assert len(list(opened.publish(writer.finish()))) == -(-5 // size) - 1
        assert all(opened.chunks.find(chunk) for chunk in chunks)


def test_an_empty_result_is_published(opened: Store) -> None:
    """A writer without a chunk changes nothing."""
    opened.commit()
    drain(opened.publish(opened.writer().finish()))
    assert opened.counters.get(NEXT_CHUNK) == 1
    assert not opened.index.changes


def test_a_roll_back_keeps_all_published_packs(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A roll-back after a first slice removes none of the packs that the index has."""
    monkeypatch.setattr(segment_module, "SEGMENT_SIZE", 1)
    monkeypatch.setattr(pack_module, "PACK_SIZE", 6 * PAGE)
    contents = [noise(CHUNK, seed) for seed in range(3)]
    chunks = put(opened, *contents)
    assert opened.packs.numbers() == {PackId(1), PackId(2), PackId(3)}
    opened.roll_back_writer()
    assert [load(opened, chunk) for chunk in chunks] == contents


def test_a_move_that_is_no_longer_valid_is_left_out(opened: Store) -> None:
    """A copied chunk that has changed since keeps its new place; the others move."""
    one, two = put(opened, noise(100), noise(100, 1))
    before = opened.chunks.record(one)
    writer = opened.writer()
    for chunk in (one, two):
        record = opened.chunks.record(chunk)
        writer.copy(chunk, record, opened.stored_bytes.read(chunk, record))
    result = writer.finish()
    drain(opened.publish(result, lambda chunk, _: chunk == two))
    assert opened.chunks.record(one) == before
    assert opened.chunks.record(two).place == result.moved[two].place
    assert [load(opened, chunk) for chunk in (one, two)] == [noise(100), noise(100, 1)]
