"""Staging: windows and their files."""

import os
from pathlib import Path

import pytest

from modelfs.store.disk.directory import Directory
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.files.staging import Staging
from modelfs.store.files.window import window_name
from modelfs.store.index.index import Index
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.tables import ROOT, InodeNumber, Table, pair_key
from modelfs.store.store import Store
from tests.support.run_jobs import drain, ingest_file
from tests.support.stores import (
    WINDOW,
    Box,
    content_of,
    names_in,
    new_file,
    noise,
    staged_of,
)

pytestmark = pytest.mark.usefixtures("windows")


def test_a_write_takes_the_windows_it_touches(opened: Store) -> None:
    """A file has a staging file for each written window, and for no other."""
    inode = new_file(opened, b"f")
    opened.writes.write(inode, WINDOW - 1, b"ab")
    opened.writes.write(inode, 100 * WINDOW, b"c")
    staged = staged_of(opened, inode)
    assert sorted(staged.windows) == [0, 1, 100]
    assert list(staged.ranges()) == [(WINDOW - 1, WINDOW + 1), (100 * WINDOW, 100 * WINDOW + 1)]
    assert staged.staged_bytes == 3
    assert len(names_in(opened.staging.directory.path)) == 3


def test_a_window_begun_again_has_another_file(opened: Store) -> None:
    """A window that begins again after a truncation has a new file."""
    inode = new_file(opened, b"f", b"old")
    opened.flush(inode)
    plan = opened.contents.plan(inode, 0, 3)
    opened.writes.truncate(inode, 0)
    opened.writes.write(inode, 0, b"new")
    assert opened.contents.gather(plan) == b"old"
    assert len(names_in(opened.staging.directory.path)) == 2
    opened.flush(inode)
    opened.commit()
    assert len(names_in(opened.staging.directory.path)) == 1
    assert content_of(opened, inode) == b"new"


def test_a_window_that_no_row_names_goes_at_once(opened: Store) -> None:
    """Truncations and writes in turn leave no files, and planned reads of them go on."""
    inode = new_file(opened, b"f", b"old")
    plan = opened.contents.plan(inode, 0, 3)
    for _ in range(10):
        opened.writes.truncate(inode, 0)
        opened.writes.write(inode, 0, b"new")
    assert opened.contents.gather(plan) == b"old"
    assert len(names_in(opened.staging.directory.path)) == 1


def test_a_row_is_dropped_with_its_own_window_only(tmp_path: Path) -> None:
    """Dropping an older window leaves the row of the window that replaced it."""
    index = Index(Directory(tmp_path))
    staging = Staging(Directory(tmp_path), index)
    inode = InodeNumber(7)
    staged = staging.adopt(StagedFile(inode, 4 * WINDOW, 0, 0, size_floor=0))
    old = staging.window(staged, 3)
    assert staged.truncate(0) == [old]
    staging.supersede(staged, old)
    new = staging.window(staged, 3)
    key = pair_key(inode, 3)
    with index.change():
        new.ranges.add(3 * WINDOW, 3 * WINDOW + 1)
        staging.rows.record(inode, new, RangeSet())
        staging.drop(staged, [old])
    assert index.get(Table.STAGED, key) is not None
    assert staging.deletes.drain() == [window_name(inode, 3, old.generation)]
    with index.change():
        staging.drop(staged, [new])
    assert index.get(Table.STAGED, key) is None
    staging.release(inode)
    index.close()


def test_a_folder_that_could_not_be_synced_is_synced_again(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error, names of new staging files do not count as durable."""
    synced: list[Directory] = []

    def note(folder: Directory) -> None:
        synced.append(folder)

    def fails(folder: Directory) -> None:
        raise OSError(5, os.strerror(5))

    inode = new_file(opened, b"f", b"x")
    monkeypatch.setattr(Directory, "sync", fails)
    with pytest.raises(OSError, match="error"):
        opened.staging.sync(inode, [])
    monkeypatch.setattr(Directory, "sync", note)
    opened.flush(inode)
    opened.staging.sync(inode, [])
    assert synced == [opened.staging.directory]


def test_the_number_of_staged_bytes_is_kept(box: Box) -> None:
    """The number of staged bytes is that of all windows, after each kind of change."""
    store = box.store

    def check(store: Store, expected: int | None = None) -> None:
        assert store.staging.bytes == sum(staged.staged_bytes for staged in store.staging)
        assert expected in (None, store.staging.bytes)

    one, other = (new_file(store, name, noise(3 * WINDOW)) for name in (b"one", b"other"))
    check(store, 6 * WINDOW)
    store.writes.write(one, WINDOW, noise(10))  # inside staged bytes
    check(store, 6 * WINDOW)
    parts = store.writes.begin(other, 2 * WINDOW, memoryview(noise(WINDOW)))
    store.writes.truncate(other, WINDOW + 5)
    check(store, 4 * WINDOW + 5)
    store.writes.end(other, parts, WINDOW)  # of a window that was cut off meanwhile
    check(store, 4 * WINDOW + 5)
    store.flush(one)
    store.commit()
    store = box.crash()
    check(store, 3 * WINDOW)
    ingest_file(store, one)
    check(store, 0)
    store.writes.write(one, 0, noise(7))
    store.namespace.unlink(ROOT, b"one")
    drain(store.orphans.remove(one))
    check(store, 0)
