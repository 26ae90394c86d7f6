"""Lineage: the permitted derivations, and lineage across a move."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfs.codecs.base import CodecId
from modelfs.store.chunks import lineage as lineage_module
from modelfs.store.chunks.lineage import CHAIN_MAX, Depth, Lineage, deepest
from modelfs.store.disk.directory import Directory
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.index import Index
from modelfs.store.index.tables import ChunkId, PackId
from modelfs.store.store import Store
from tests.support.derived_chunks import HALF, chunk_at, derive, halves, pair, remove
from tests.support.run_jobs import collect_dead
from tests.support.stores import CHUNK, Box, content_of, new_store, noise, stored_file

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
        index = Index(Directory(new_store(Path(top)) / "index"))
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


def test_moving_changes_no_lineage(box: Box) -> None:
    """Packs with derived chunks and their sources, dead ones among them, are rewritten."""
    store = box.store
    _, part, base, chunk = pair(store)
    stored_file(store, b"garbage", noise(8 * CHUNK, 5))
    before = store.chunks.record(chunk), store.chunks.record(base)
    remove(store, b"base", b"garbage")
    collect_dead(store)
    store = box.crash()
    after = store.chunks.record(chunk), store.chunks.record(base)
    assert [record.pack for record in after] != [record.pack for record in before]
    assert [(record.kind, record.dependants) for record in after] == [
        (ChunkKind.DERIVED, 0),
        (ChunkKind.PLAIN, 1),
    ]
    assert content_of(store, part) == noise(CHUNK)[:HALF]
