"""Invariants of file maps and chunk records: one damage, one finding."""

import dataclasses
from collections.abc import Callable
from typing import Final

import pytest

from modelfs.codecs.base import CodecId
from modelfs.jobs.check.findings import Severity
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import ChunkId, Table, number_key
from tests.support.sample_store import BASE, CHUNK, SHARERS, WORDS, Sample


def found_first(sample: Sample) -> tuple[str, tuple[bytes, ...], tuple[str, ...]]:
    """Return the first finding, where the same damage spoils the counts as well."""
    first, *others = sample.findings()
    assert {each.invariant for each in others} <= {"chunk-uses", "dead", "total", "inode-total"}
    return first.invariant, first.files, first.tensors


def test_an_extent_in_a_directory_is_found(sample: Sample) -> None:
    """Content of an inode that is no regular file is reported by its path."""
    chunk, _ = sample.chunk_at(sample.text, 0)
    directory = dataclasses.replace(sample.node(sample.folder), size=100)
    sample.put_node(directory)
    with sample.store.index.change():
        sample.store.maps.replace(sample.folder, 0, 1, [Extent(0, chunk, 0, 1)])
    assert sample.finding() == ("extent-file", (b"/folder",), ())


def test_an_extent_in_no_chunk_is_found(sample: Sample) -> None:
    """An extent whose chunk does not exist names the file and the tensor that lie there."""
    extent = sample.extents(sample.base)[1]
    sample.put_extent(sample.base, dataclasses.replace(extent, chunk=ChunkId(1000)))
    assert found_first(sample) == ("extent-chunk", (BASE,), (WORDS,))


def test_an_extent_past_its_chunk_is_found(sample: Sample) -> None:
    """An extent that reaches past the end of its chunk is reported."""
    extent = sample.extents(sample.base)[1]
    sample.put_extent(sample.base, dataclasses.replace(extent, skip=1))
    assert sample.finding() == ("extent-inside", (BASE,), (WORDS,))


def test_overlapping_extents_are_found(sample: Sample) -> None:
    """Two extents for the same byte of a file are reported once."""
    chunk, _ = sample.chunk_at(sample.base, 1000)
    sample.put_extent(sample.base, Extent(1000, chunk, 0, 8))
    assert found_first(sample) == ("extent-overlap", (BASE,), (WORDS,))


def test_an_extent_past_the_size_is_found(sample: Sample) -> None:
    """Content past a file's end that no truncation explains is reported."""
    sample.delete(Table.TRIMS, number_key(sample.cut))
    found = sample.findings()
    assert {(each.invariant, each.files) for each in found} == {
        ("extent-size", (b"/cut",)),
        ("staging-rows", (b"/cut",)),
    }


@pytest.mark.parametrize(("uses", "severity"), [(2, Severity.DAMAGE), (4, Severity.ACCOUNT)])
def test_a_wrong_use_count_is_found(sample: Sample, uses: int, severity: Severity) -> None:
    """A use count that the extents do not add up to is damage if it is too low."""
    chunk, record = sample.chunk_at(sample.base, 1000)
    assert record.refs == len(SHARERS)
    sample.put_chunk(chunk, dataclasses.replace(record, refs=uses))
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("chunk-uses", severity)


def test_a_used_chunk_that_is_listed_as_dead_is_found(sample: Sample) -> None:
    """A chunk that gc would remove though a file needs it is damage."""
    chunk, _ = sample.chunk_at(sample.base, 1000)
    sample.put(Table.DEAD, number_key(chunk), b"")
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("dead", Severity.DAMAGE)


def test_an_unused_chunk_that_is_not_listed_as_dead_is_found(sample: Sample) -> None:
    """A chunk that gc would never remove is an account."""
    key, _ = next(sample.store.index.pages(Table.DEAD))
    sample.delete(Table.DEAD, key)
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("dead", Severity.ACCOUNT)


def test_a_dead_chunk_that_does_not_exist_is_found(sample: Sample) -> None:
    """What is listed as dead has a record."""
    sample.put(Table.DEAD, number_key(1000), b"")
    assert sample.finding() == ("dead", (), ())


def test_a_chunk_that_its_hash_does_not_find_is_found(sample: Sample) -> None:
    """A chunk that equal content would not be shared with is reported."""
    _, record = sample.chunk_at(sample.base, 1000)
    sample.delete(Table.HASHES, record.digest)
    assert sample.finding() == ("hash", (), ())


def test_a_hash_that_finds_another_chunk_is_found(sample: Sample) -> None:
    """A hash leads only to chunks that have it."""
    chunk, _ = sample.chunk_at(sample.base, 1000)
    sample.put(Table.HASHES, bytes(16), number_key(chunk))
    assert sample.finding() == ("hash", (), ())


IMPOSSIBLE: Final[dict[str, Callable[[Chunk], Chunk]]] = {
    "too large": lambda record: dataclasses.replace(record, size=CHUNK + 1),
    "plain and coded": lambda record: dataclasses.replace(record, codec=CodecId.ZSTD),
    "plain and smaller": lambda record: dataclasses.replace(record, stored=record.stored - 1),
}


@pytest.mark.parametrize("change", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_impossible_form_is_found(sample: Sample, change: Callable[[Chunk], Chunk]) -> None:
    """A chunk record that contradicts itself names the files and tensors that lie in the chunk."""
    chunk, record = sample.chunk_at(sample.base, 1000)
    sample.put_chunk(chunk, change(record))
    found = sample.findings(data=False)[0]
    assert (found.invariant, found.files, found.tensors) == ("chunk-form", SHARERS, (WORDS,))
