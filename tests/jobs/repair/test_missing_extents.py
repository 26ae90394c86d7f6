"""Extents without a row, and extents that lead to the chunk of another file."""

import dataclasses
from collections.abc import Iterator

import pytest

from modelfs.errors import CorruptChunk
from modelfs.jobs.check.findings import Finding, Severity
from modelfs.jobs.check.fsck import check
from modelfs.jobs.repair.missing_extents import HOLE_MAX
from modelfs.jobs.repair.run import RepairReport, repair
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import ROOT, InodeNumber, Table, number_key, pair_key
from modelfs.store.store import Store
from tests.support.run_jobs import collect, ingest_all
from tests.support.stores import CHUNK, Box, content_of, new_file, noise

SPARSE = noise(3 * CHUNK)
DENSE = noise(3 * CHUNK, 1)
HOLE = 5 * CHUNK


class Files:
    """A store with a sparse file, of three chunks and a hole at its end, and a dense one."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.sparse = new_file(box.store, b"sparse", SPARSE)
        self.dense = new_file(box.store, b"dense", DENSE)
        box.store.writes.truncate(self.sparse, len(SPARSE) + HOLE)
        ingest_all(box.store)

    @property
    def store(self) -> Store:
        return self.box.store

    def delete_extent(self, number: int) -> None:
        with self.store.index.change():
            self.store.index.delete(Table.EXTENTS, pair_key(self.sparse, number * CHUNK))

    def fsck(self) -> list[Finding]:
        return check(self.store, data=True)

    def repair(self) -> RepairReport:
        self.store.close()
        report = repair(self.box.path, data=True)
        self.box.store = Store(self.box.path)
        return report

    def unreadable(self, inode: InodeNumber) -> Iterator[int]:
        """Yield the numbers of a file's chunks that fail to read; the others are as written."""
        content = {self.sparse: SPARSE + bytes(HOLE), self.dense: DENSE}[inode]
        for number in range(len(content) // CHUNK):
            start = number * CHUNK
            try:
                found = self.store.contents.read(inode, start, CHUNK)
            except CorruptChunk:
                yield number
            else:
                assert found == content[start : start + CHUNK], number

    def kept(self) -> bytes:
        """Return the content of the file in `/lost+found`."""
        folder = self.store.namespace.lookup(ROOT, b"lost+found")
        ((_, inode),) = self.store.dentries.names(folder, b"", 9)
        return content_of(self.store, inode)


@pytest.fixture
def files(box: Box) -> Files:
    return Files(box)


def test_an_extent_beside_a_hole_is_lost(files: Files) -> None:
    """A hole that an extent may be missing from is not read as zeros, and its file is named."""
    files.delete_extent(2)
    found = {finding.invariant: finding for finding in files.fsck()}
    assert {finding.severity for finding in found.values()} == {Severity.DAMAGE}
    assert found.keys() == {"chunk-uses", "map-hole"}
    assert found["map-hole"].files == (b"/sparse",)
    report = files.repair()
    assert report.after.findings == []
    assert any(action.files == (b"/sparse",) for action in report.actions)
    assert list(files.unreadable(files.sparse)) == [2, 3, 4, 5, 6, 7]
    assert list(files.unreadable(files.dense)) == []


def test_the_chunk_of_a_missing_extent_is_kept(files: Files) -> None:
    """A file in `/lost+found` has the bytes of the chunk, and gc keeps them."""
    files.delete_extent(1)
    files.delete_extent(2)
    files.repair()
    collect(files.store)
    assert files.kept() == SPARSE[CHUNK:]


def test_of_a_long_hole_the_ends_are_lost(files: Files) -> None:
    """A hole longer than `HOLE_MAX` becomes lost only as far as the missing bytes reach."""
    size = 1 << 62
    files.store.writes.truncate(files.sparse, size)
    files.delete_extent(2)
    assert files.repair().after.findings == []
    extents = list(files.store.maps.overlapping(files.sparse, 0, size))
    starts = [extent.start for extent in extents]
    assert starts == [0, CHUNK, 2 * CHUNK, size - CHUNK]
    assert size > HOLE_MAX
    assert list(files.unreadable(files.sparse)) == [2]


def lead_to(files: Files, source: InodeNumber, target: InodeNumber, at: int) -> None:
    """Let an extent of a file be that of another at 0, as an older page of extents has it."""
    index = files.store.index
    value = index.get(Table.EXTENTS, pair_key(source, 0))
    assert value is not None
    with index.change():
        index.put(Table.EXTENTS, pair_key(target, at), value)


def test_an_extent_of_another_file_is_lost(files: Files) -> None:
    """Which use of a chunk is one too many is unknown: none is believed, and no bytes are gone."""
    lead_to(files, files.sparse, files.dense, CHUNK)
    found = files.fsck()
    assert [(finding.invariant, finding.severity) for finding in found] == [
        ("chunk-uses", Severity.DAMAGE)
    ] * 2
    assert {finding.files for finding in found} == {(b"/sparse", b"/dense"), ()}
    report = files.repair()
    assert report.after.findings == []
    assert {(b"/sparse",), (b"/dense",)} <= {action.files for action in report.actions}
    assert list(files.unreadable(files.sparse)) == [0]
    assert list(files.unreadable(files.dense)) == [1]
    assert files.kept() == SPARSE[:CHUNK] + DENSE[CHUNK : 2 * CHUNK]


def test_an_extent_that_a_file_had_before_is_lost(files: Files) -> None:
    """A map with more bytes than its inode's record: too many uses of a chunk are not believed."""
    lead_to(files, files.dense, files.sparse, 3 * CHUNK)
    report = files.repair()
    assert report.after.findings == []
    assert (b"/sparse",) in {action.files for action in report.actions}
    assert list(files.unreadable(files.sparse)) == [3]
    assert list(files.unreadable(files.dense)) == []


def test_a_map_that_is_too_long_is_lost(files: Files) -> None:
    """If no chunk has too many uses, it is unknown which extent is the old one."""
    lead_to(files, files.dense, files.sparse, 3 * CHUNK)
    value = files.store.index.get(Table.EXTENTS, pair_key(files.dense, 0))
    assert value is not None
    chunk = Extent.from_row(pair_key(files.dense, 0), value).chunk
    record = files.store.chunks.record(chunk)
    more = dataclasses.replace(record, refs=record.refs + 1, ref_bytes=record.ref_bytes + CHUNK)
    with files.store.index.change():
        files.store.index.put(Table.CHUNKS, number_key(chunk), more.to_bytes())
    assert files.repair().after.findings == []
    assert list(files.unreadable(files.sparse)) == [0, 1, 2, 3]
    assert list(files.unreadable(files.dense)) == []


def test_a_record_of_a_chunk_that_counts_less_is_corrected(files: Files) -> None:
    """If both maps agree with their inodes, the record of the chunk is the older one."""
    chunk = next(iter(files.store.maps.overlapping(files.dense, 0, 1))).chunk
    record = files.store.chunks.record(chunk)
    with files.store.index.change():
        less = dataclasses.replace(record, refs=0, ref_bytes=0)
        files.store.index.put(Table.CHUNKS, number_key(chunk), less.to_bytes())
    assert files.repair().after.findings == []
    assert list(files.unreadable(files.dense)) == []
    assert files.store.chunks.record(chunk) == record


def test_a_sparse_file_is_sound(files: Files) -> None:
    """Without a missing extent no hole is suspicious."""
    assert files.fsck() == []
    assert files.repair().actions == []
    assert list(files.unreadable(files.sparse)) == []
