"""Totals in inode records: a row that vanished is damage that reads find."""

from pathlib import Path

import pytest

from modelfs.errors import CorruptIndex
from modelfs.jobs.check.fsck import check
from modelfs.store.files import orphans
from modelfs.store.files.inode_totals import Totals, add_to_totals
from modelfs.store.files.window import WINDOW
from modelfs.store.index.tables import InodeNumber, Table, number_key, number_of
from modelfs.store.store import Store
from tests.support.damaged_rows import raw_rows
from tests.support.run_jobs import drain, ingest_all
from tests.support.stores import Box, durable, model_of, new_file, new_store, noise, stored_file

CONTENT = noise(3 << 20)


def totals(store: Store, inode: InodeNumber) -> Totals:
    return Totals.of(store.inodes.get(inode))


def test_totals_follow_the_rows(box: Box) -> None:
    """Flushes, ingest, overwriting, truncation and its end change the totals with the rows."""
    store = box.store
    inode = new_file(store, b"f", CONTENT)
    assert totals(store, inode) == Totals(0, 0)
    store.writes.write(inode, 2 * WINDOW, b"end")
    durable(store, inode)
    assert totals(store, inode) == Totals(2, 0)
    ingest_all(store)
    assert totals(store, inode) == Totals(0, len(CONTENT) + 3)
    store.writes.write(inode, 100, noise(5000, 1))
    ingest_all(store)
    assert totals(store, inode) == Totals(0, len(CONTENT) + 3)
    store.writes.truncate(inode, 1000)
    store.flush(inode)
    assert totals(store, inode) == Totals(1, len(CONTENT) + 3)
    drain(store.flusher.trim(inode))
    ingest_all(store)
    assert totals(store, inode) == Totals(0, 1000)
    store.writes.truncate(inode, 5000)
    ingest_all(store)
    assert totals(store, inode) == Totals(0, 1000)


def test_attributes_and_tensors_are_counted(box: Box) -> None:
    """Each attribute and each tensor is counted once, until it goes."""
    store = box.store
    inode = stored_file(store, b"f", model_of(b"one", b"two", b"three"))
    size = store.contents.node(inode).size
    assert totals(store, inode) == Totals(0, size, 0, 3)
    for name, value in ((b"user.a", b"1"), (b"user.b", b"2"), (b"user.a", b"3")):
        store.attributes.put(inode, name, value)
    assert totals(store, inode) == Totals(0, size, 2, 3)
    store.attributes.remove(inode, b"user.b")
    store.writes.truncate(inode, 0)
    store.writes.write(inode, 0, model_of(b"tensor", b"other"))
    ingest_all(store)
    size = store.contents.node(inode).size
    assert totals(store, inode) == Totals(0, size, 1, 2)
    store.writes.write(inode, 0, b"no model")
    ingest_all(store)
    assert totals(store, inode) == Totals(0, size, 1, 0)


def test_an_orphan_loses_its_rows_and_their_counts(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The totals of an orphan that is removed in slices are right after each of them."""
    monkeypatch.setattr(orphans, "SLICE", 2)
    inode = stored_file(box.store, b"f", model_of(*[b"tensor"] * 5))
    for number in range(5):
        box.store.attributes.put(inode, b"user.%d" % number, b"value")
    box.store.namespace.unlink(InodeNumber(1), b"f")
    slices = 0
    for _ in box.store.orphans.remove(inode):
        slices += 1
        assert check(box.store) == []
    assert slices >= 4


def test_a_record_that_is_put_keeps_its_totals(box: Box) -> None:
    """A record that was read before the rows changed does not turn the totals back."""
    inode = stored_file(box.store, b"f", CONTENT)
    node = box.store.inodes.get(inode)
    box.store.writes.truncate(inode, 1000)
    ingest_all(box.store)
    with box.store.index.change():
        box.store.inodes.touch(node, size=1000)
    assert totals(box.store, inode) == Totals(0, 1000)


def test_totals_are_never_negative(box: Box) -> None:
    """A change that would make a total negative is damage; the change is undone."""
    inode = stored_file(box.store, b"f", b"1234")
    with pytest.raises(CorruptIndex), box.store.index.change():
        add_to_totals(box.store.index, inode, mapped=-5)
    assert totals(box.store, inode) == Totals(0, 4)


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A store with one file in chunks and one staged in two windows."""
    path = new_store(tmp_path)
    store = Store(path)
    stored_file(store, b"chunks", CONTENT)
    staged = new_file(store, b"staged", b"begin")
    store.writes.write(staged, WINDOW, b"end")
    durable(store, staged)
    store.abandon()
    return path


def inode_of(store: Store, name: bytes) -> InodeNumber:
    return store.namespace.lookup(InodeNumber(1), name)


def forget(path: Path, table: Table, number: int) -> None:
    """Delete the n-th row of a table."""
    with raw_rows(path / "index") as rows:
        del rows[table][sorted(rows[table])[number]]


def first_of(path: Path, table: Table) -> bytes:
    with raw_rows(path / "index") as rows:
        return min(rows[table])


@pytest.mark.parametrize("read_only", [True, False])
def test_a_missing_extent_is_an_error(closed: Path, *, read_only: bool) -> None:
    """A read of a hole fails if the file has no hole by its total; other reads succeed."""
    forget(closed, Table.EXTENTS, 1)
    store = Store(closed, read_only=read_only)
    inode = inode_of(store, b"chunks")
    first, second = list(store.maps.overlapping(inode, 0, len(CONTENT)))[:2]
    assert store.contents.read(inode, 0, first.stop) == CONTENT[: first.stop]
    with pytest.raises(CorruptIndex, match=f"extents of inode {inode} are missing"):
        store.contents.read(inode, first.stop, 10)
    assert store.contents.read(inode, second.start, 10) == CONTENT[second.start :][:10]
    found = [(finding.invariant, finding.files) for finding in check(store)]
    assert ("map-hole", (b"/chunks",)) in found
    store.abandon()


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("gone", [[0], [1], [0, 1]])
def test_missing_staged_rows_are_an_error(
    closed: Path, gone: list[int], *, read_only: bool
) -> None:
    """A file that misses a row of a staged window is not read at all, nor written."""
    for number in reversed(gone):
        forget(closed, Table.STAGED, number)
    store = Store(closed, read_only=read_only)
    inode = inode_of(store, b"staged")
    for action in (
        lambda: store.contents.read(inode, 0, 5),
        lambda: store.contents.snapshot(inode),
        *(() if read_only else (lambda: store.writes.write(inode, 0, b"new"),)),
    ):
        with pytest.raises(CorruptIndex, match="staging rows"):
            action()
    found = [(finding.invariant, finding.files) for finding in check(store)]
    assert ("staging-rows", (b"/staged",)) in found
    store.abandon()


def test_a_missing_truncation_is_an_error(closed: Path) -> None:
    """Bytes that a truncation cut off are not read when its row is gone."""
    store = Store(closed)
    inode = inode_of(store, b"chunks")
    store.writes.truncate(inode, 10)
    store.writes.truncate(inode, 1000)
    durable(store, inode)
    store.abandon()
    forget(closed, Table.TRIMS, 0)
    store = Store(closed)
    with pytest.raises(CorruptIndex, match="staging rows"):
        store.contents.read(inode, 0, 1000)
    store.abandon()


def test_a_damaged_file_can_be_removed(closed: Path) -> None:
    """A file whose staged rows are damaged is removed as any other, with its rows."""
    key = first_of(closed, Table.STAGED)
    with raw_rows(closed / "index") as rows:
        rows[Table.STAGED][key] = bytes(len(rows[Table.STAGED][key]))
    with Store(closed) as store:
        inode = inode_of(store, b"staged")
        assert number_of(key) == inode
        store.namespace.unlink(InodeNumber(1), b"staged")
        drain(store.orphans.remove(inode))
        assert list(store.index.pages(Table.STAGED)) == []
        assert not store.index.has(Table.INODES, number_key(inode))
    with Store(closed, read_only=True) as store:
        assert check(store) == []


def test_a_reader_beside_a_writer_misses_rows_too(closed: Path) -> None:
    """A process that reads beside a writer compares the rows of each file that it opens."""
    inode = number_of(first_of(closed, Table.STAGED))
    forget(closed, Table.STAGED, 1)
    store = Store(closed, read_only=True)
    assert store.index.rows.others_write
    with pytest.raises(CorruptIndex, match="1 staging rows of inode"):
        store.contents.read(InodeNumber(inode), 0, 5)
    store.abandon()
