"""The records of chunks: newer and older layouts, and lost chunks."""

import dataclasses

import pytest

from modelfs.errors import CorruptIndex
from modelfs.store.index.chunk_records import Chunk
from tests.support.paths import STORE_GOLDEN
from tests.support.record_examples import EXAMPLES, NEWEST


def test_chunks_of_format_1_stay_readable() -> None:
    """Records of format 1, without dependants and content checksum, are still read."""
    as_then = dataclasses.replace(
        EXAMPLES["chunk"], dependants=0, content_checksum=0, optimized=False, element=0
    )
    for name, record in (("chunk", as_then), ("lost", as_then.as_lost())):
        golden = (STORE_GOLDEN / f"{name}.record").read_bytes()
        assert Chunk.from_bytes(golden) == record
        assert record.to_bytes() == golden + bytes(8)


def test_numbers_never_assigned_are_damage() -> None:
    """An unknown kind or codec is refused, and so is a flag that is neither 0 nor 1."""
    chunk = EXAMPLES["chunk"].to_bytes()
    for value in (
        b"\x09" + chunk[1:],
        chunk[:1] + b"\x09" + chunk[2:],
        chunk[:2] + b"\2" + chunk[3:],
    ):
        with pytest.raises(CorruptIndex):
            Chunk.from_bytes(value)


def test_a_lost_chunk_is_stored_as_ever() -> None:
    """The record of a lost chunk has no place, but all fields that identify a good copy."""
    chunk = EXAMPLES["chunk"]
    lost = chunk.as_lost()
    assert lost.to_bytes() == (STORE_GOLDEN / f"{NEWEST['lost']}.record").read_bytes()
    assert (lost.size, lost.checksum, lost.digest) == (chunk.size, chunk.checksum, chunk.digest)
    assert (lost.dependants, lost.content_checksum) == (chunk.dependants, chunk.content_checksum)
    assert (lost.is_lost, lost.form, chunk.is_lost) == (True, "lost", False)
