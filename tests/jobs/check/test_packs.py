"""Invariants of packs: one damage, one finding."""

import dataclasses
from pathlib import Path

import pytest

from modelfs.codecs.base import CodecId
from modelfs.jobs.check.findings import Severity
from modelfs.store.index.tables import ChunkId, Table, number_key, number_of
from modelfs.store.packs.segment import PAGE
from tests.support.sample_store import (
    BASE,
    CHUNK,
    LORA,
    ONNX,
    PACK,
    QUERY,
    SHARERS,
    WORDS,
    Sample,
    fill,
)
from tests.support.stores import new_store, overwrite


def test_a_flipped_bit_is_found_by_reading(sample: Sample) -> None:
    """A damaged byte of a chunk names the files that share it, and only the tensors in it."""
    _, record = sample.chunk_at(sample.base, 1000)
    byte = sample.store.packs.read(PACK, record.offset, 1)
    overwrite(sample.pack, record.offset, bytes([byte[0] ^ 1]))
    assert sample.finding() == ("content", SHARERS, (WORDS,))


def test_damage_in_one_model_is_not_blamed_on_the_other(sample: Sample) -> None:
    """A damaged byte in the tensor that two models do not share names one of them."""
    _, record = sample.chunk_at(sample.base, 500_000)
    overwrite(sample.pack, record.offset, b"damaged")
    assert sample.finding() == ("content", (BASE,), (QUERY,))


def test_a_damaged_coded_chunk_is_found(sample: Sample) -> None:
    """A damaged byte of compressed text names the file."""
    _, record = sample.chunk_at(sample.text, 0)
    assert record.codec is CodecId.ZSTD
    overwrite(sample.pack, record.offset + 5, b"damaged")
    assert sample.finding() == ("content", (b"/folder/text",), ())


def test_damage_to_what_nothing_uses_is_no_finding(sample: Sample) -> None:
    """A damaged byte of a dead chunk is no finding."""
    key, _ = next(sample.store.index.pages(Table.DEAD))
    record = sample.store.chunks.record(ChunkId(number_of(key)))
    overwrite(sample.pack, record.offset, b"damaged")
    assert sample.findings() == []


def test_a_wrong_hash_is_found_by_reading(sample: Sample) -> None:
    """Content that is not what its chunk's hash says is reported, though its checksum is right."""
    chunk, record = sample.chunk_at(sample.base, 1000)
    sample.delete(Table.HASHES, record.digest)
    sample.put(Table.HASHES, bytes(16), number_key(chunk))
    sample.put_chunk(chunk, dataclasses.replace(record, digest=bytes(16)))
    assert sample.finding() == ("content", SHARERS, (WORDS,))


def test_a_missing_pack_is_found(sample: Sample) -> None:
    """A pack that is gone is one finding, which names every file in it."""
    sample.pack.unlink()
    invariant, files, tensors = sample.finding()
    assert invariant == "pack-file"
    assert {BASE, LORA, b"/folder/text", ONNX} <= set(files)
    assert {WORDS, QUERY} <= set(tensors)


def test_a_pack_of_another_store_is_found(sample: Sample, tmp_path: Path) -> None:
    """A pack in the place of another is recognised by its header."""
    path = new_store(tmp_path, chunk_size=CHUNK)
    fill(path)
    other = Sample(path)
    other.pack.replace(sample.pack)
    other.store.abandon()
    assert sample.finding()[0] == "pack-file"


def test_a_short_pack_names_what_was_behind(sample: Sample) -> None:
    """A pack that was cut names the files behind the cut, and no tensor before it."""
    _, record = sample.chunk_at(sample.base, 500_000)
    with sample.pack.open("r+b") as file:
        file.truncate(record.offset)
    invariant, files, tensors = sample.finding()
    assert (invariant, BASE in files) == ("pack-file", True)
    assert (QUERY in tensors, WORDS in tensors) == (True, False)


def test_a_chunk_in_an_unknown_pack_is_found(sample: Sample) -> None:
    """Chunks in a pack that the index does not have are one finding."""
    sample.delete(Table.PACKS, number_key(PACK))
    invariant, files, _ = sample.finding()
    assert (invariant, BASE in files) == ("place", True)


def test_a_chunk_behind_the_committed_part_is_found(sample: Sample) -> None:
    """A chunk in the part of a pack that the index does not vouch for names whom it hurts."""
    chunk, record = sample.chunk_at(sample.base, 1000)
    moved = dataclasses.replace(record, offset=sample.row().stop - 1)
    sample.put_chunk(chunk, moved)
    found = sample.findings(data=False)[0]
    assert (found.invariant, found.files, found.tensors) == ("place", SHARERS, (WORDS,))


def test_overlapping_chunks_are_found(sample: Sample) -> None:
    """Two chunks at the same place are reported, with whom the second hurts."""
    first, record = sample.chunk_at(sample.base, 1000)
    second, _ = sample.chunk_at(sample.base, 500_000)
    assert first < second
    sample.put_chunk(
        second, dataclasses.replace(sample.store.chunks.record(second), offset=record.offset + 1)
    )
    found = sample.findings(data=False)[0]
    assert (found.invariant, found.files) == ("place", (BASE,))


def test_a_damaged_segment_table_is_found(sample: Sample) -> None:
    """Damage to what a pack says of itself is an account: every file still reads right."""
    overwrite(sample.pack, PAGE + 24, b"damaged")
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("segment", Severity.ACCOUNT)


def test_a_segment_table_that_tells_otherwise_is_found(sample: Sample) -> None:
    """A record that a pack's own tables contradict names whom it hurts."""
    chunk, record = sample.chunk_at(sample.base, 1000)
    sample.put_chunk(chunk, dataclasses.replace(record, checksum=record.checksum ^ 1))
    (found,) = sample.findings(data=False)
    assert (found.invariant, found.files) == ("segment-chunk", SHARERS)


@pytest.mark.parametrize(("difference", "severity"), [(-1, "damage"), (1, "account")])
def test_wrong_live_bytes_are_found(sample: Sample, difference: int, severity: str) -> None:
    """A pack's live bytes that are not those of its used chunks are damage if too few."""
    row = sample.row()
    sample.put_row(dataclasses.replace(row, live=row.live + difference))
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("pack-live", severity)
