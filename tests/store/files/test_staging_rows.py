"""Rows of staged content in the index."""

from pathlib import Path

import pytest

from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.stores import WINDOW, new_file, noise, staged_of
from tests.support.writer_process import writer_of

pytestmark = pytest.mark.usefixtures("windows")


def test_recorded_windows_are_found(opened: Store) -> None:
    """The index has a window's ranges, and those that were lost, until its rows are deleted."""
    inode = new_file(opened, b"f", noise(WINDOW + 10))
    opened.flush(inode)
    rows = opened.staging.rows
    first, second = staged_of(opened, inode).windows.values()
    with opened.index.change():
        rows.record(inode, first, RangeSet([(5, 7)]))
    found = rows.find(inode)
    assert found is not None
    assert list(found.ranges()) == [(0, WINDOW + 10)]
    assert list(found.windows[0].lost()) == [(5, 7)]
    assert [each.inode for each in rows.states()] == [inode]
    assert opened.inodes.get(inode).staging_rows == 3
    with opened.index.change():
        rows.delete(inode, first)
        rows.delete(inode, second)
    assert (rows.find(inode), list(rows.states())) == (None, [])
    assert opened.inodes.get(inode).staging_rows == 0
    with opened.index.change():
        for window in (first, second):
            rows.record(inode, window, RangeSet())


def test_a_reader_beside_a_writer_has_the_state_of_each_commit(folder: Path) -> None:
    """The staged state is looked up in the index, at the commit that is read."""
    with writer_of(folder) as writer, Store(folder, read_only=True) as reader:
        inode = InodeNumber(2)
        assert (reader.staging.find(inode), list(reader.staging), len(reader.staging)) == (
            None,
            [],
            0,
        )
        writer(f"new_file(store, b'f', noise({2 * WINDOW})); store.flush(2); store.commit()")
        staged = reader.staging.find(inode)
        assert staged is not None
        assert staged.staged_bytes == 2 * WINDOW
        assert [each.inode for each in reader.staging] == [2]
        with reader.index.rows.pinned():
            assert reader.staging.find(inode) is not None
            writer("ingest_all(store)")
            assert reader.staging.find(inode) is not None
            assert len(reader.staging) == 1
        assert reader.staging.find(inode) is None
        writer("store.writes.truncate(2, 5); store.flush(2); store.commit()")
        cut = reader.staging.find(inode)
        assert cut is not None
        assert (cut.size, cut.map_visible_to) == (5, 5)
        assert reader.contents.read(inode, 0, 100) == noise(2 * WINDOW)[:5]
