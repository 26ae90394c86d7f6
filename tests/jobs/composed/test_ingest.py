"""Ingest of a store that is not mounted."""

import pytest

from modelfs.jobs.composed.ingest import ingest_unmounted
from modelfs.jobs.drive import run
from modelfs.store.index.tables import ROOT, Table, number_key
from modelfs.store.store import Store
from tests.support.stores import content_of, new_file, noise, stored_file


def test_removed_files_are_not_stored(opened: Store) -> None:
    """A file that was removed before goes first, without a chunk of its content."""
    gone = new_file(opened, b"gone", noise(100, 1))
    kept = new_file(opened, b"kept", noise(100, 2))
    opened.namespace.unlink(ROOT, b"gone")
    run(ingest_unmounted(opened), opened)
    assert opened.inodes.find(gone) is None
    assert [*opened.orphans.inodes()] == []
    assert len([*opened.index.keys(Table.CHUNKS)]) == 1
    assert content_of(opened, kept) == noise(100, 2)


def test_a_damaged_file_that_was_removed(opened: Store, caplog: pytest.LogCaptureFixture) -> None:
    """It stays, for fsck, and all others are removed or stored."""
    damaged = stored_file(opened, b"b", noise(100))
    gone, kept = (new_file(opened, name, noise(100)) for name in (b"a", b"c"))
    for name in (b"b", b"a"):
        opened.namespace.unlink(ROOT, name)
    record = opened.index.get(Table.INODES, number_key(damaged))
    assert record is not None
    with opened.index.change():
        opened.index.put(Table.INODES, number_key(damaged), record[:5])
    run(ingest_unmounted(opened), opened)
    assert opened.inodes.find(gone) is None
    assert [*opened.orphans.inodes()] == [damaged]
    assert opened.staging.find(kept) is None
    assert f"cannot remove a deleted file (inode {damaged}), left to the next mount" in caplog.text
    with opened.index.change():
        opened.index.put(Table.INODES, number_key(damaged), record)
    run(ingest_unmounted(opened), opened)
    assert [*opened.orphans.inodes()] == []
