"""Invariants of rows, totals and staging files: one damage, one finding."""

import dataclasses
from typing import Final

import pytest

from modelfs.jobs.check.findings import Severity
from modelfs.jobs.check.fsck import check, fsck
from modelfs.store.index.counters import FILES, NEXT_CHUNK, NEXT_INODE, NEXT_PACK, SHARED
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import WindowRanges
from modelfs.store.index.superblock import FORMAT_VERSION, SUPERBLOCK
from modelfs.store.index.tables import Table, named_key, number_key
from tests.support.sample_store import BASE, SHARERS, WORDS, Sample

ANY_VALUE: Final = {Table.SYMLINKS, Table.XATTRS}  # whatever bytes are their value
EMPTY: Final = {Table.LOST}
# Hints, and the queues of ingest and of the optimizer: without a row, files may take more room.
NOT_MISSED: Final = {
    Table.EXTERNAL_DATA,
    Table.COPY_HINTS,
    Table.SKETCHES,
    Table.PENDING,
    Table.TO_OPTIMIZE,
}


@pytest.mark.parametrize("table", sorted(set(Table) - ANY_VALUE - EMPTY))
def test_a_row_that_does_not_decode_is_found_once(sample: Sample, table: Table) -> None:
    """Damage that makes a value unreadable is reported as that, and not as what follows of it."""
    key, _ = next(sample.store.index.pages(table))
    sample.put(table, key, b"junk!")
    (found,) = sample.findings(data=False)
    assert found.invariant == "row"
    assert key[:32].hex() in found.message


@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("table", Table)
def test_a_lost_row_is_found(sample: Sample, table: Table, which: int) -> None:
    """A row that vanishes from any table leaves a finding, unless no file depends on it."""
    if table is Table.LOST:
        sample.lose(10, 30)
    sample.delete(table, list(sample.store.index.keys(table))[which])
    assert bool(sample.findings(data=False)) == (table not in NOT_MISSED)


@pytest.mark.parametrize(
    ("table", "found"),
    [
        (Table.XATTRS, ("xattr-rows", (b"/folder/text",), ())),
        (Table.TENSORS, ("tensor-rows", (BASE,), ())),
    ],
)
def test_missing_rows_of_an_inode_are_found(
    sample: Sample, table: Table, found: tuple[str, tuple[bytes, ...], tuple[str, ...]]
) -> None:
    """An attribute or tensor less than the inode counts is one finding, with its file."""
    sample.delete(table, next(sample.store.index.keys(table)))
    assert sample.finding() == found


def test_an_inode_with_more_rows_than_it_counts_is_found(sample: Sample) -> None:
    """A total that is too small is reported as an account: no row is missing."""
    sample.put(Table.XATTRS, named_key(sample.text, b"user.more"), b"")
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("inode-total", Severity.ACCOUNT)


def test_an_unreadable_directory_is_found_once(sample: Sample) -> None:
    """The link count of a directory that may have one more subdirectory is not called wrong."""
    sample.put(Table.INODES, number_key(sample.folder), b"junk!")
    (found,) = sample.findings(data=False)
    assert found.invariant == "row"


def test_a_total_that_does_not_decode_is_found_once(sample: Sample) -> None:
    """Damage to a total keeps nothing from being checked, nor the files from being counted."""
    files = sample.store.counters.get(FILES)
    sample.put(Table.META, FILES, b"junk!")
    report = fsck(sample.store)
    assert ([each.invariant for each in report.findings], report.files) == (["row"], files)
    sample.store.abandon()


@pytest.mark.parametrize("table", Table)
def test_a_key_that_does_not_decode_is_found(sample: Sample, table: Table) -> None:
    """A row whose key no modelfs has made is reported; the store can still be read."""
    sample.put(table, b"\0", b"value")
    assert sample.finding() == ("row", (), ())


def test_a_damaged_chunk_record_names_whom_it_hurts(sample: Sample) -> None:
    """A chunk record that does not decode names the files and tensors that lie in the chunk."""
    chunk, _ = sample.chunk_at(sample.base, 1000)
    sample.put(Table.CHUNKS, number_key(chunk), b"junk!")
    (found,) = sample.findings()
    assert (found.invariant, found.files, found.tensors) == ("row", SHARERS, (WORDS,))


def test_a_missing_superblock_is_found(sample: Sample) -> None:
    """An index without a superblock is reported, in a store that is open."""
    sample.delete(Table.META, SUPERBLOCK)
    assert [each.invariant for each in check(sample.store)] == ["superblock"]
    sample.store.abandon()


def test_a_superblock_of_another_format_is_found(sample: Sample) -> None:
    """The superblock's format version is that of the store."""
    block = dataclasses.replace(sample.store.superblock, version=FORMAT_VERSION + 1)
    sample.put(Table.META, SUPERBLOCK, block.to_bytes())
    assert sample.finding() == ("superblock", (), ())


@pytest.mark.parametrize("counter", [NEXT_INODE, NEXT_CHUNK, NEXT_PACK])
def test_a_counter_behind_is_found(sample: Sample, counter: bytes) -> None:
    """A counter that would hand out a number in use is reported."""
    sample.count(counter, 1)
    assert sample.finding() == ("counter", (), ())


@pytest.mark.parametrize(
    ("table", "rest", "value"),
    [
        (Table.XATTRS, b"user.x", b""),
        (Table.PENDING, b"", number_key(1)),
        (Table.TRIMS, b"", number_key(0)),
        (Table.TENSORS, bytes(12), b"\1" + bytes(9)),
    ],
)
def test_rows_of_no_inode_are_found(
    sample: Sample, table: Table, rest: bytes, value: bytes
) -> None:
    """What belongs to an inode that does not exist is reported."""
    sample.put(table, number_key(1000) + rest, value)
    assert sample.finding() == ("row-inode", (), ())


def test_content_rows_of_a_directory_are_found(sample: Sample) -> None:
    """What only a regular file can have is reported where a directory has it."""
    sample.put(Table.TENSORS, number_key(sample.folder) + bytes(12), b"\1" + bytes(9))
    assert sample.finding() == ("row-inode", (), ())


@pytest.mark.parametrize("name", [FILES, SHARED, b"form.zstd.stored_bytes"])
def test_a_wrong_total_is_found(sample: Sample, name: bytes) -> None:
    """A total that is not the sum of what it counts is reported, as an account."""
    sample.count(name, 12345)
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("total", Severity.ACCOUNT)


def test_the_total_of_a_form_that_nothing_has_is_found(sample: Sample) -> None:
    """What is counted of a stored form in which there is no chunk is zero."""
    sample.count(b"form.strange.chunks", 1)
    assert sample.finding() == ("total", (), ())


def test_a_missing_staging_file_is_found(sample: Sample) -> None:
    """A staged window whose file is gone names the file that lost bytes."""
    sample.window.unlink()
    assert sample.finding() == ("window", (b"/staged",), ())


def test_a_short_staging_file_is_found(sample: Sample) -> None:
    """A staging file that ends before its durable ranges do names the file that lost bytes."""
    with sample.window.open("r+b") as file:
        file.truncate(50)
    assert sample.finding() == ("window", (b"/staged",), ())


def test_a_window_with_ranges_of_another_is_found(sample: Sample) -> None:
    """A staged window has no ranges outside its bounds."""
    key, value = next(sample.store.index.pages(Table.STAGED))
    row = WindowRanges(WindowRanges.from_bytes(value).generation, RangeSet([(1 << 40, 2 << 40)]))
    sample.put(Table.STAGED, key, row.to_bytes())
    assert sample.finding() == ("window", (b"/staged",), ())


def test_lost_staged_bytes_are_known(sample: Sample) -> None:
    """Bytes that the disk lost are no finding, and the report has their file."""
    sample.lose(10, 30)
    report = fsck(sample.store, data=True)
    assert report.findings == []
    assert (report.lost.bytes, [*report.lost.impact.files]) == (20, [b"/staged"])


@pytest.mark.parametrize(("stop", "generation"), [(101, 0), (30, 1)])
def test_lost_bytes_of_no_window_are_found(sample: Sample, stop: int, generation: int) -> None:
    """Lost bytes are bytes of a staged window, in the same staging file."""
    sample.lose(10, stop, generation=generation)
    assert sample.finding() == ("lost", (b"/staged",), ())


def test_a_damaged_record_of_lost_bytes_is_found(sample: Sample) -> None:
    """Damage of the record is one finding, of the file."""
    sample.lose(10, 30)
    ((key, _),) = sample.store.index.pages(Table.LOST)
    sample.put(Table.LOST, key, b"junk!")
    assert sample.finding() == ("row", (b"/staged",), ())


def test_a_damaged_key_hides_no_missing_row(sample: Sample) -> None:
    """A broken row with a key of one byte is none of the inode with that number."""
    sample.delete(Table.XATTRS, named_key(sample.text, b"user.note"))
    sample.put(Table.XATTRS, bytes([sample.text]), b"junk!")
    found = [(finding.invariant, finding.files) for finding in sample.findings()]
    assert found == [("row", ()), ("xattr-rows", (b"/folder/text",))]
