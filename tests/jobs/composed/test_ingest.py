"""Ingest of a store that is not mounted."""

from modelfs.jobs.composed.ingest import ingest_unmounted
from modelfs.jobs.drive import run
from modelfs.store.index.tables import ROOT, Table
from modelfs.store.store import Store
from tests.support.stores import content_of, new_file, noise


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
