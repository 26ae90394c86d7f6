"""Repair of file maps: ranges whose extents are wrong or unreadable fail to read."""

import dataclasses

from modelfs.store.index.records import Extent
from modelfs.store.index.tables import ChunkId, Table, number_key, pair_key
from tests.support.byte_damage import (
    PIECE,
    Contents,
    bytes_of,
    check_losses,
    files_of,
    mend,
    unreadable,
    write_again,
)
from tests.support.sample_store import BASE, WORDS, Sample


def test_a_dangling_extent_fails_to_read(sample: Sample, good: Contents) -> None:
    """A range whose chunk is nowhere is lost; the rest of the file is not."""
    extent = sample.extents(sample.base)[1]
    sample.put_extent(sample.base, dataclasses.replace(extent, chunk=ChunkId(1000)))
    report = mend(sample)
    assert check_losses(files_of(sample.path), good, report) == {BASE}
    failed = unreadable(sample.path, BASE, bytes_of(good, BASE))
    assert failed == {*range(extent.start // PIECE, (extent.stop - 1) // PIECE + 1)}
    assert {name for each in report.actions for name in each.tensors} == {WORDS}
    write_again(sample.path, b"copy", bytes_of(good, BASE))
    assert files_of(sample.path)[BASE] is None  # which chunk it was is not known


def test_a_damaged_extent_fails_to_read(sample: Sample, good: Contents) -> None:
    """So does a range of which the row does not decode, or reaches past its chunk."""
    first, second = sample.extents(sample.base)[1:3]
    sample.put(Table.EXTENTS, pair_key(sample.base, first.start), b"junk!")
    sample.put_extent(sample.base, dataclasses.replace(second, skip=1))
    report = mend(sample)
    assert check_losses(files_of(sample.path), good, report) == {BASE}
    failed = unreadable(sample.path, BASE, bytes_of(good, BASE))
    assert failed == {*range(first.start // PIECE, (second.stop - 1) // PIECE + 1)}


def test_of_overlapping_extents_neither_is_believed(sample: Sample, good: Contents) -> None:
    """Two extents for the same bytes contradict each other."""
    first = sample.extents(sample.base)[1]
    sample.put_extent(sample.base, Extent(first.stop - 8, first.chunk, 0, 8))
    report = mend(sample)
    assert check_losses(files_of(sample.path), good, report) == {BASE}
    failed = unreadable(sample.path, BASE, bytes_of(good, BASE))
    assert failed == {*range(first.start // PIECE, (first.stop - 1) // PIECE + 1)}


def test_content_of_a_folder_becomes_a_file(sample: Sample, good: Contents) -> None:
    """Extents of what can have none are put into a file of their own."""
    chunk, _ = sample.chunk_at(sample.base, 1000)
    sample.put_extent(sample.folder, Extent(0, chunk, 0, 100))
    mend(sample)
    found = files_of(sample.path)
    (name,) = found.keys() - good.keys()
    assert name.startswith(b"/lost+found/inode-")
    assert found.pop(name) == bytes_of(good, BASE)[456:556]
    assert found == good


def test_what_was_cut_off_does_not_come_back(sample: Sample, good: Contents) -> None:
    """Where a truncation ends is not known without its row: then the file fails to read."""
    sample.put(Table.TRIMS, number_key(sample.cut), b"junk!")
    report = mend(sample)
    assert check_losses(files_of(sample.path), good, report) == {b"/cut"}
