"""Reclaim: dead chunks go in slices, sources after their dependants, and packs with the commit."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from modelfs.errors import StoreFull
from modelfs.store.chunks import reclaim
from modelfs.store.chunks.lineage import CHAIN_MAX
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.committed import CommittedRows
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key
from modelfs.store.packs.segment import PAGE
from modelfs.store.store import Store
from tests.support.derived_chunks import HALF, chunk_at, derive, halves, held, pair, remove
from tests.support.put_chunks import TEXT, load, put
from tests.support.run_jobs import collect, collect_dead, drain
from tests.support.stores import CHUNK, Box, content_of, noise, stored_file


def test_a_source_outlives_its_file(box: Box) -> None:
    """A base-only chunk is kept and counted, and removed with its last dependant."""
    _, part, base, _ = pair(box.store)
    remove(box.store, b"base")
    collect_dead(box.store)
    store = box.crash()
    assert content_of(store, part) == noise(CHUNK)[:HALF]
    assert held(store) == [base]
    statistics = store.inventory.statistics(0)
    assert (statistics.base_only_chunks, statistics.base_only_bytes) == (1, CHUNK)
    remove(store, b"part0")
    collect(store)
    assert list(store.index.pages(Table.CHUNKS)) == []
    assert list(store.index.pages(Table.SOURCES)) == []
    assert store.packs.numbers() == set()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_sources_die_with_their_dependants(
    opened: Store, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """One collection removes a whole chain, for every order of its numbers and any slices."""
    monkeypatch.setattr(reclaim, "SLICE", size)
    whole = noise(CHUNK)
    chain = [stored_file(opened, b"%d" % n, whole[: CHUNK - n]) for n in range(CHAIN_MAX + 1)]
    chunks = [chunk_at(opened, inode) for inode in chain]
    for number in range(1, len(chunks)):
        derive(opened, chunks[number], (chunks[number - 1], 0, CHUNK - number))
    assert content_of(opened, chain[-1]) == whole[:-CHAIN_MAX]
    remove(opened, *(b"%d" % number for number in range(CHAIN_MAX + 1)))
    drain(opened.reclaimer.remove_dead())
    assert list(opened.index.pages(Table.CHUNKS)) == []
    collect(opened)


def test_a_slice_of_removals_counts_sources(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of dead chunks with many sources, a slice removes fewer."""
    monkeypatch.setattr(reclaim, "SLICE", 4)
    base, *parts = halves(opened, 4)
    for part in parts:
        derive(opened, part, (base, parts.index(part), HALF))
    remove(opened, *(b"part%d" % number for number in range(4)))
    assert next(opened.reclaimer.remove_dead()) == 2
    collect(opened)


def test_the_file_of_an_empty_pack_goes_with_the_commit(box: Box) -> None:
    """A crash before the commit that deletes a pack's row keeps the row and the file."""
    inode = stored_file(box.store, b"f", noise(CHUNK))
    pack = box.store.chunks.record(chunk_at(box.store, inode)).pack
    remove(box.store, b"f")
    drain(box.store.reclaimer.retire_empty_packs())
    assert list(box.store.reclaimer.packs()) == []
    assert box.store.packs.numbers() == {pack}
    store = box.crash()
    assert content_of(store, inode) == noise(CHUNK)
    remove(store, b"f")
    drain(store.reclaimer.retire_empty_packs())
    store.commit()
    assert store.packs.numbers() == set()


def test_a_pack_whose_row_could_not_be_deleted_keeps_its_file(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed commit the file is there, and the next commit deletes it."""
    stored_file(box.store, b"f", noise(CHUNK))
    remove(box.store, b"f")
    drain(box.store.reclaimer.retire_empty_packs())

    def fails(*_: object) -> None:
        raise StoreFull("full")

    with monkeypatch.context() as patch:
        patch.setattr(CommittedRows, "write", fails)
        with pytest.raises(StoreFull):
            box.store.commit()
    assert box.store.packs.numbers() == {PackId(1)}
    box.store.commit()
    assert box.store.packs.numbers() == set()


def test_a_pack_with_a_live_chunk_is_not_retired(opened: Store) -> None:
    """One live byte keeps a pack, and its dead chunks stay until the next collection."""
    stored_file(opened, b"f", noise(CHUNK))
    put(opened, noise(100))
    assert opened.reclaimer.retire(PackId(1)) == 0
    drain(opened.reclaimer.retire_empty_packs())
    assert [pack for pack, _ in opened.reclaimer.packs()] == [PackId(1)]


def test_a_retired_pack_gets_no_more_chunks(opened: Store) -> None:
    """Chunks that are written before the commit go to another pack than the one that is retired."""
    put(opened, noise(100))
    drain(opened.reclaimer.retire_empty_packs())
    inode = stored_file(opened, b"f", noise(CHUNK))
    assert opened.packs.numbers() == {PackId(2)}
    assert content_of(opened, inode) == noise(CHUNK)


def test_a_chunk_revived_between_slices_stays(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead chunk that a file uses again, while dead ones are removed, is not removed."""
    monkeypatch.setattr(reclaim, "SLICE", 1)
    chunks = put(opened, *(noise(CHUNK, seed) for seed in range(3)))
    slices = opened.reclaimer.remove_dead()
    next(slices)
    inode = stored_file(opened, b"f", noise(CHUNK, 2))
    drain(slices)
    assert [opened.chunks.find(chunk) is not None for chunk in chunks] == [False, False, True]
    assert content_of(opened, inode) == noise(CHUNK, 2)


def test_a_removal_that_fails_is_undone(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the middle of a removal leaves that chunk dead, and it goes later."""
    chunks = put(opened, noise(100), noise(100, 1))
    count, calls = opened.counters.replace_chunk, list[Chunk | None]()

    def second_fails(old: Chunk | None, new: Chunk | None) -> None:
        calls.append(old)
        if len(calls) == 2:
            raise OSError("broken")
        count(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(opened.counters, "replace_chunk", second_fails)
        with pytest.raises(OSError, match="broken"):
            drain(opened.reclaimer.remove_dead())
    assert [opened.chunks.find(chunk) is None for chunk in chunks] == [True, False]
    assert list(opened.reclaimer.remove_dead()) == [1]


@pytest.fixture
def derived(opened: Store) -> tuple[ChunkId, ...]:
    """A chunk of a file, one that derives from it, and dead ones before and behind that."""
    first, second = put(opened, noise(100, 1), noise(100, 2))
    base, part = halves(opened, 1)
    third, fourth = put(opened, noise(100, 3), noise(100, 4))
    derive(opened, part, (base, 0, HALF))
    remove(opened, b"part0")
    return base, part, first, second, third, fourth


@contextmanager
def damaged(store: Store, table: Table, key: bytes) -> Iterator[None]:
    """Make a row of a store one that does not decode, inside the block."""
    value = store.index.get(table, key)
    assert value is not None
    with store.index.change():
        store.index.put(table, key, b"damaged")
    yield
    with store.index.change():
        store.index.put(table, key, value)


@pytest.mark.parametrize("size", [1, 2, 3, 250])
@pytest.mark.parametrize("of_base", [False, True])
def test_a_damaged_row_keeps_its_own_chunk_only(
    opened: Store,
    derived: tuple[ChunkId, ...],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    size: int,
    of_base: bool,
) -> None:
    """Whether it is of a dead chunk or of its source, all others go, and nothing is half done."""
    monkeypatch.setattr(reclaim, "SLICE", size)
    base, part, *others = derived
    chunk = base if of_base else part
    before = {table: [*opened.index.keys(table)] for table in (Table.SOURCES, Table.DEPENDANTS)}
    with damaged(opened, Table.CHUNKS, number_key(chunk)):
        assert sum(opened.reclaimer.remove_dead()) == len(others)
        assert list(opened.reclaimer.remove_dead()) == []
        put(opened, noise(100, 5))
        assert sum(opened.reclaimer.remove_dead()) == 1
    assert [*opened.index.keys(Table.DEAD)] == [number_key(part)]
    assert {table: [*opened.index.keys(table)] for table in before} == before
    assert caplog.text.count(f"the dead chunk {part} stays: ") == 1
    caplog.clear()


def test_a_pack_with_a_chunk_that_was_passed_over(
    opened: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not retired, damaged row or not; any other is, once its tables were read."""
    (chunk,) = put(opened, noise(100))
    opened.packs.seal(PackId(1))
    put(opened, noise(100, 1))
    opened.packs.seal(PackId(2))
    with damaged(opened, Table.CHUNKS, number_key(chunk)):
        drain(opened.reclaimer.retire_empty_packs())
        assert opened.reclaimer.may_have_chunks(PackId(1), PAGE)
        assert not opened.reclaimer.may_have_chunks(PackId(2), PAGE)
    assert opened.reclaimer.may_have_chunks(PackId(1), PAGE)
    assert [opened.reclaimer.retire(pack) for pack in (PackId(1), PackId(2))] == [0, 0]
    assert opened.reclaimer.retire(PackId(2), is_empty=True)
    assert [pack for pack, _ in opened.reclaimer.packs()] == [PackId(1)]
    caplog.clear()


def test_a_removed_chunks_number_has_no_old_content_in_memory(opened: Store) -> None:
    """The decoded content of a removed chunk leaves the cache."""
    (chunk,) = put(opened, TEXT, compress=True)
    record = opened.chunks.record(chunk)
    assert load(opened, chunk) == TEXT
    assert opened.chunk_reader.peek(chunk, record) == TEXT
    drain(opened.reclaimer.remove_dead())
    assert opened.chunk_reader.peek(chunk, record) is None
