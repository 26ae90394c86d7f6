"""Counters: named integers, and the amounts that chunks add to them."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptIndex
from modelfs.store.disk.directory import Directory
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.counters import (
    BASE_ONLY_BYTES,
    BASE_ONLY_CHUNKS,
    DEAD_BYTES,
    DEAD_CHUNKS,
    FILES,
    NEXT_CHUNK,
    SHARED,
    Counters,
    FormTotals,
    chunk_counts,
    counter_of,
)
from modelfs.store.index.index import Index
from modelfs.store.index.tables import PackId, Table

PLAIN = Chunk(ChunkKind.PLAIN, CodecId.RAW, 100, PackId(1), 4096, 100, 1, 100, 1, bytes(16))
CODED = dataclasses.replace(PLAIN, kind=ChunkKind.CODED, codec=CodecId.ZSTD, stored=30)


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[Counters]:
    """Counters of an empty index, inside a change of it."""
    index = Index(Directory(tmp_path))
    with index.change():
        yield Counters(index)
    index.close()


def totals(counters: Counters) -> dict[bytes, int]:
    """Return all numbers but zeros."""
    names = [name for name, _ in counters._index.pages(Table.META)]
    return {name: counters.get(name) for name in names if counters.get(name)}


@pytest.mark.parametrize("value", [0, 1, -1, (1 << 63) - 1, 1 << 63, -(1 << 63), 1 << 65])
def test_numbers_of_any_size_come_back(counters: Counters, value: int) -> None:
    """A number may have more than 64 bits, and either sign."""
    counters.set(FILES, value)
    assert counters.get(FILES) == value
    counters.add(FILES, -value)
    assert counters.get(FILES) == 0


@pytest.mark.parametrize("length", [0, 7, 17])
def test_numbers_have_a_length(length: int) -> None:
    """A row of fewer than 8 bytes, or of more than 16, is damage."""
    with pytest.raises(CorruptIndex, match="files"):
        counter_of(FILES, bytes(length))


def test_no_number_is_allocated_twice(counters: Counters) -> None:
    """Numbers are allocated in order, from the one that was set."""
    counters.set(NEXT_CHUNK, 5)
    assert [counters.allocate(NEXT_CHUNK) for _ in range(3)] == [5, 6, 7]
    assert counters.get(NEXT_CHUNK) == 8


def test_the_amounts_of_a_chunk() -> None:
    """Each state of a chunk counts in its own totals: dead, shared, base-only, lost."""
    form = {b"form.plain.chunks": 1, b"form.plain.raw_bytes": 100, b"form.plain.stored_bytes": 100}
    zero = {SHARED: 0, BASE_ONLY_CHUNKS: 0, BASE_ONLY_BYTES: 0}
    assert chunk_counts(PLAIN) == {**form, **zero}
    twice = dataclasses.replace(PLAIN, refs=2, ref_bytes=150)
    assert chunk_counts(twice) == {**form, **zero, SHARED: 50}
    base = dataclasses.replace(PLAIN, refs=0, ref_bytes=0, dependants=1)
    assert chunk_counts(base) == {**form, **zero, BASE_ONLY_CHUNKS: 1, BASE_ONLY_BYTES: 100}
    dead = dataclasses.replace(PLAIN, refs=0, ref_bytes=0)
    assert chunk_counts(dead) == {DEAD_CHUNKS: 1, DEAD_BYTES: 100}
    lost = dataclasses.replace(twice, kind=ChunkKind.LOST, stored=0)
    assert chunk_counts(lost) == {
        b"form.lost.chunks": 1,
        b"form.lost.raw_bytes": 150,
        b"form.lost.stored_bytes": 0,
    }


def test_totals_follow_the_states_of_a_chunk(counters: Counters) -> None:
    """A chunk that is added, coded, dies and is removed leaves every total as it was."""
    dead = dataclasses.replace(CODED, refs=0, ref_bytes=0)
    steps = [None, PLAIN, CODED, dead, None]
    for old, new in itertools.pairwise(steps):
        counters.replace_chunk(old, new)
        wanted = {} if new is None else chunk_counts(new)
        assert totals(counters) == {name: amount for name, amount in wanted.items() if amount}
    assert set(counters.forms()) == {"plain", "zstd"}
    with counters._index.change():
        counters.add(b"form.lost.chunks", 1)
    assert counters.forms()["lost"] == FormTotals(chunks=1)
