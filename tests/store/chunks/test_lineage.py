"""Derived chunks: which may derive from which; reading, keeping, moving, removing, healing."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptChunk
from modelfs.store.chunks import lineage as lineage_module
from modelfs.store.chunks import publish, reclaim
from modelfs.store.chunks.lineage import CHAIN_MAX, Depth, Lineage, deepest
from modelfs.store.chunks.writer import WriteResult
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.index import Index
from modelfs.store.index.tables import ROOT, ChunkId, InodeNumber, PackId, Table, number_key
from modelfs.store.store import Store
from tests.support.derived_chunks import chunk_at, derive, held
from tests.support.run_jobs import collect, drain
from tests.support.stores import (
    CHUNK,
    Box,
    content_of,
    new_store,
    noise,
    overwrite,
    pack_path,
    stored_file,
)

HALF: Final = CHUNK // 2

# -- permitted derivations

CHUNKS: Final = range(1, 8)
Graph = dict[ChunkId, tuple[CodecId, tuple[ChunkId, ...]]]


def paths(graph: Graph, chunk: ChunkId, seen: tuple[ChunkId, ...] = ()) -> Iterator[list[ChunkId]]:
    """Yield every path from a chunk down to stored bytes; a cycle ends at its first chunk."""
    seen = (*seen, chunk)
    _, sources = graph.get(chunk, (CodecId.RAW, ()))
    if not sources:
        yield [chunk]
    for source in sources:
        rest = [[source]] if source in seen else paths(graph, source, seen)
        for path in rest:
            yield [chunk, *path]


def is_allowed(graph: Graph, depth: int) -> bool:
    """Return whether every chunk is few steps, and few deltas, away from stored bytes."""
    for chunk in graph:
        for path in paths(graph, chunk):
            deltas = sum(graph[derived][0] is CodecId.DELTA for derived in path[:-1])
            if len(set(path)) < len(path) or len(path) - 1 > CHAIN_MAX or deltas > depth:
                return False
    return True


STEPS = st.tuples(
    st.sampled_from(CHUNKS).map(ChunkId),
    st.sampled_from([CodecId.DELTA, CodecId.CAST]),
    st.lists(st.sampled_from(CHUNKS).map(ChunkId), min_size=1, max_size=3, unique=True).map(tuple),
)


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(STEPS, max_size=20), depth=st.integers(0, 2))
def test_chains_are_short_and_end(
    steps: list[tuple[ChunkId, CodecId, tuple[ChunkId, ...]]], depth: int
) -> None:
    """A derivation is permitted exactly if no chain becomes too long or cyclic with it."""
    graph: Graph = {}
    with TemporaryDirectory() as top:
        index = Index(new_store(Path(top)) / "index")
        lineage = Lineage(index)
        for chunk, codec, sources in steps:
            after = {**graph, chunk: (codec, sources)}
            allowed = is_allowed(after, depth)
            assert lineage.may_derive(chunk, codec, sources, finder(graph), depth) == allowed
            if allowed:
                relink(index, lineage, chunk, sources)
                graph = after
        index.close()


def test_deltas_count_through_every_source(opened: Store) -> None:
    """The source with the longest chain need not be the one with the most deltas."""
    lineage, delta, cast = opened.chunks.lineage, CodecId.DELTA, CodecId.CAST
    one, two, three, four, five = map(ChunkId, range(1, 6))
    graph: Graph = {three: (cast, (two,)), two: (cast, (one,)), four: (delta, (one,))}
    with opened.index.change():
        for chunk, (_, sources) in graph.items():
            lineage.link(chunk, *sources)
    assert lineage.may_derive(five, cast, (three, four), finder(graph), 1)
    assert not lineage.may_derive(five, delta, (three, four), finder(graph), 1)
    assert lineage.may_derive(five, delta, (three,), finder(graph), 1)
    with opened.index.change():
        for chunk, (_, sources) in graph.items():
            lineage.unlink(chunk, *sources)


def test_depth_is_that_of_several_chains() -> None:
    """The most steps and the most deltas may be those of different chains."""
    assert deepest([]) == Depth(0, 0)
    assert deepest([Depth(3, 0), Depth(1, 1)]) == Depth(3, 1)
    assert Depth(1, 0).derived(CodecId.DELTA) == Depth(2, 1)
    assert Depth(1, 0).derived(CodecId.CAST) == Depth(2, 0)


def test_deltas_above_a_chunk(opened: Store) -> None:
    """Deltas are counted down to stored bytes; a chain without end counts as too long."""
    lineage = opened.chunks.lineage
    one, two, three = map(ChunkId, range(1, 4))
    graph: Graph = {two: (CodecId.CAST, (one,)), three: (CodecId.DELTA, (two,))}
    with opened.index.change():
        for chunk, (_, sources) in graph.items():
            lineage.link(chunk, *sources)
    assert [lineage.deltas_above(chunk, finder(graph)) for chunk in (one, two, three)] == [0, 0, 1]
    with opened.index.change():
        lineage.link(one, three)
    assert lineage.deltas_above(three, finder(graph)) == CHAIN_MAX
    with opened.index.change():
        lineage.unlink(one, three)
        for chunk, (_, sources) in graph.items():
            lineage.unlink(chunk, *sources)


def finder(graph: Graph) -> lineage_module.Find:
    def find(chunk: ChunkId) -> Chunk:
        codec, sources = graph.get(chunk, (CodecId.RAW, ()))
        kind = ChunkKind.DERIVED if sources else ChunkKind.PLAIN
        return Chunk(kind, codec, 1, PackId(1), 4096, 1, 1, 1, 1, bytes(16))

    return find


def relink(index: Index, lineage: Lineage, chunk: ChunkId, sources: tuple[ChunkId, ...]) -> None:
    with index.change():
        for source in lineage.sources(chunk):
            lineage.unlink(chunk, source)
        for source in sources:
            lineage.link(chunk, source)


def test_a_chunk_without_a_record_is_no_source(opened: Store) -> None:
    """No chunk may derive from a missing chunk, nor from one that derives from it."""
    lineage, find = opened.chunks.lineage, opened.chunks.find
    one = chunk_at(opened, stored_file(opened, b"a", noise(CHUNK)))
    assert not lineage.may_derive(one, CodecId.CAST, (ChunkId(99),), find, 1)
    with opened.index.change():
        lineage.link(ChunkId(98), one)
    two = chunk_at(opened, stored_file(opened, b"b", noise(CHUNK, 1)))
    assert not lineage.may_derive(one, CodecId.CAST, (two,), find, 1)
    with opened.index.change():
        lineage.unlink(ChunkId(98), one)


def test_too_many_dependants_are_refused(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk with more dependants than the limit gets no new form."""
    monkeypatch.setattr(lineage_module, "VISITED_MAX", 2)
    base, *others = halves(opened, 3)
    plain = chunk_at(opened, stored_file(opened, b"plain", noise(CHUNK, 77)))
    find = opened.chunks.find
    for number, other in enumerate(others):
        assert opened.chunks.lineage.may_derive(base, CodecId.CAST, (plain,), find, 1)
        derive(opened, other, (base, number, HALF))
    assert not opened.chunks.lineage.may_derive(base, CodecId.CAST, (plain,), find, 1)
    assert len(list(opened.chunks.lineage.descendants(base))) == 2


# -- reading


def halves(store: Store, count: int) -> list[ChunkId]:
    """Return a chunk, and others that contain its content; each in a file of its own."""
    files = [stored_file(store, b"base", noise(CHUNK))]
    for number in range(count):
        part = noise(CHUNK)[number : number + HALF]
        files.append(stored_file(store, b"part%d" % number, part))
    return [chunk_at(store, file) for file in files]


def pair(store: Store) -> tuple[InodeNumber, InodeNumber, ChunkId, ChunkId]:
    """Return a file, one that derives from it, and the chunks of both."""
    base, part = halves(store, 1)
    derive(store, part, (base, 0, HALF))
    names = store.namespace
    store.commit()
    return names.lookup(ROOT, b"base"), names.lookup(ROOT, b"part0"), base, part


def spoil(store: Store, chunk: ChunkId) -> None:
    """Damage the stored bytes of a chunk."""
    record = store.chunks.record(chunk)
    overwrite(pack_path(store.packs, record.pack), record.offset + 5, b"damaged")
    store.chunk_reader.distrust(record)


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
    real = opened.chunk_reader.stored_bytes

    def counted(chunk: ChunkId, record: Chunk) -> bytes:
        asked.append(chunk)
        return real(chunk, record)

    monkeypatch.setattr(opened.chunk_reader, "stored_bytes", counted)
    assert opened.chunk_reader.read_current(part) == mixed
    assert sorted(asked) == sorted((*bases, part))


def test_another_content_of_the_right_size_is_damage(opened: Store) -> None:
    """A recipe that yields the right number of bytes may still yield the wrong ones."""
    base, part = halves(opened, 1)
    derive(opened, part, (base, 1, HALF))
    with pytest.raises(CorruptChunk, match="does not decode to the content"):
        opened.chunk_reader.read_current(part)
    stored_file(opened, b"good", noise(CHUNK)[:HALF])


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


# -- keeping and removing


def remove(store: Store, *names: bytes) -> None:
    for name in names:
        drain(store.orphans.remove(store.namespace.unlink(ROOT, name)))


def test_a_source_outlives_its_file(box: Box) -> None:
    """A base-only chunk is kept and counted, and removed with its last dependant."""
    _, part, base, _ = pair(box.store)
    remove(box.store, b"base")
    collect(box.store)
    store = box.crash()
    assert content_of(store, part) == noise(CHUNK)[:HALF]
    assert held(store) == [base]
    statistics = store.statistics(0)
    assert (statistics.base_only_chunks, statistics.base_only_bytes) == (1, CHUNK)
    remove(store, b"part0")
    collect(store)
    assert list(store.index.pages(Table.CHUNKS)) == []
    assert list(store.index.pages(Table.SOURCES)) == []
    assert store.packs.numbers() == set()


def test_a_base_only_chunk_is_shared_again(opened: Store) -> None:
    """New content equal to a base-only chunk takes no space."""
    _, _, base, _ = pair(opened)
    remove(opened, b"base")
    assert held(opened) == [base]
    again = stored_file(opened, b"again", noise(CHUNK))
    assert (chunk_at(opened, again), held(opened)) == (base, [])


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


def test_a_slice_counts_sources(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of chunks with many sources, a slice publishes and removes fewer."""
    monkeypatch.setattr(reclaim, "SLICE", 4)
    base, *parts = halves(opened, 4)
    for part in parts:
        derive(opened, part, (base, parts.index(part), HALF))
    moved = dict.fromkeys(parts, opened.chunks.record(base))
    result = WriteResult({}, moved, {parts[0]: tuple(parts)}, ())
    for size, first in ((3, parts[:1]), (6, parts[:2])):
        monkeypatch.setattr(publish, "SLICE", size)
        assert first_slice(opened, result) == first
    remove(opened, *(b"part%d" % number for number in range(4)))
    assert next(opened.reclaimer.remove_dead()) == 2
    collect(opened)


def first_slice(store: Store, result: WriteResult) -> list[ChunkId]:
    """Return the chunks moved in the first slice."""
    asked: list[ChunkId] = []

    def refuse(chunk: ChunkId, _: Chunk) -> bool:
        asked.append(chunk)
        return False

    next(store.publish(result, refuse))
    return asked


def test_moving_changes_no_lineage(box: Box) -> None:
    """Packs with derived chunks and their sources, dead ones among them, are rewritten."""
    store = box.store
    _, part, base, chunk = pair(store)
    stored_file(store, b"garbage", noise(8 * CHUNK, 5))
    before = store.chunks.record(chunk), store.chunks.record(base)
    remove(store, b"base", b"garbage")
    assert collect(store) > 0
    store = box.crash()
    after = store.chunks.record(chunk), store.chunks.record(base)
    assert [record.pack for record in after] != [record.pack for record in before]
    assert [(record.kind, record.dependants) for record in after] == [
        (ChunkKind.DERIVED, 0),
        (ChunkKind.PLAIN, 1),
    ]
    assert content_of(store, part) == noise(CHUNK)[:HALF]


def test_a_new_recipe_replaces_the_sources(opened: Store) -> None:
    """A new recipe replaces a chunk's sources; a plain form removes them."""
    one, two = noise(CHUNK, 1), noise(CHUNK, 1)[:HALF] + noise(CHUNK, 2)
    chunks = [
        chunk_at(opened, stored_file(opened, content[-8:], content)) for content in (one, two)
    ]
    chunk = chunk_at(opened, stored_file(opened, b"part", one[:HALF]))
    pins = []
    for sources in ((chunks[0],), (chunks[1],), (*chunks,), (chunks[0],)):
        share = HALF // len(sources)
        derive(opened, chunk, *((source, at * share, share) for at, source in enumerate(sources)))
        pins.append(tuple(opened.chunks.record(source).dependants for source in chunks))
    assert pins == [(1, 0), (0, 1), (1, 1), (1, 0)]
    with opened.index.change():
        plain = dataclasses.replace(opened.chunks.record(chunk), kind=ChunkKind.CODED)
        opened.chunks.move(chunk, plain)
        assert opened.chunks.record(chunks[0]).dependants == 0
        assert opened.chunks.lineage.sources(chunk) == []
        derived = dataclasses.replace(plain, kind=ChunkKind.DERIVED)
        opened.chunks.move(chunk, derived, (chunks[0],))


# -- healing


def test_a_damaged_recipe_is_healed(box: Box) -> None:
    """A good copy of a chunk with a damaged recipe is stored plain, for all its files."""
    base_file, part, base, chunk = pair(box.store)
    spoil(box.store, chunk)
    with pytest.raises(CorruptChunk):
        content_of(box.store, part)
    again = stored_file(box.store, b"again", noise(CHUNK)[:HALF])
    assert chunk_at(box.store, again) == chunk
    record = box.store.chunks.record(chunk)
    assert (record.kind, record.refs, record.optimized) == (ChunkKind.PLAIN, 2, False)
    assert (box.store.chunks.record(base).dependants, box.store.chunks.lineage.sources(chunk)) == (
        0,
        [],
    )
    store = box.crash()
    assert content_of(store, part) == noise(CHUNK)[:HALF]
    assert content_of(store, base_file) == noise(CHUNK)


def test_a_chunk_is_healed_though_its_source_is_damaged(opened: Store) -> None:
    """A good copy of a derived chunk removes its sources, and does not heal them."""
    base_file, part, base, _ = pair(opened)
    spoil(opened, base)
    stored_file(opened, b"again", noise(CHUNK)[:HALF])
    assert content_of(opened, part) == noise(CHUNK)[:HALF]
    with pytest.raises(CorruptChunk):
        content_of(opened, base_file)
    stored_file(opened, b"base again", noise(CHUNK))


@pytest.mark.parametrize("data", [noise(CHUNK), b"text, again and again. " * 100], ids=len)
def test_a_chunk_of_format_1_is_healed(opened: Store, data: bytes) -> None:
    """Without a content checksum, a good copy is recognised by its encoded form."""
    inode = stored_file(opened, b"f", data)
    chunk = chunk_at(opened, inode)
    record = dataclasses.replace(opened.chunks.record(chunk), content_checksum=0)
    with opened.index.change():
        opened.index.put(Table.CHUNKS, number_key(chunk), record.to_bytes()[: Chunk.LENGTH_1])
    spoil(opened, chunk)
    again = stored_file(opened, b"again", data)
    assert chunk_at(opened, again) == chunk
    assert opened.chunks.record(chunk).content_checksum
    assert content_of(opened, inode) == data
