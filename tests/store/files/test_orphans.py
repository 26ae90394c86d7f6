"""Removing what nobody can reach any more."""

import pytest

from modelfs.jobs.check.fsck import check
from modelfs.store.files import orphans as reaper_module
from modelfs.store.index.tables import ROOT, InodeNumber, Table
from modelfs.store.store import Store
from tests.support.stores import CHUNK, ME, Box, content_of, model_of, noise, stored_file

# Tables that have nothing once everything was removed and collected.
OF_FILES = (
    Table.DENTRIES,
    Table.LISTING,
    Table.PARENTS,
    Table.SYMLINKS,
    Table.XATTRS,
    Table.EXTENTS,
    Table.TRIMS,
    Table.TENSORS,
    Table.CHUNKS,
    Table.HASHES,
    Table.DEAD,
    Table.PACKS,
    Table.STAGED,
    Table.PENDING,
    Table.ORPHANS,
)


def remove(store: Store, name: bytes) -> InodeNumber:
    return store.namespace.unlink(ROOT, name)


def reap(store: Store, inode: InodeNumber) -> int:
    """Reap an orphan whole, and return in how many slices."""
    slices = 1
    while not store.orphans.reap(inode):
        assert check(store) == []
        slices += 1
    return slices


def test_nothing_is_left_of_a_file(opened: Store) -> None:
    """After a file of every kind of row is gone and collected, its rows and packs are too."""
    inode = stored_file(opened, b"f", model_of(noise(3 * CHUNK), noise(300)))
    opened.attributes.put(inode, b"user.x", b"x")
    opened.contents.truncate(inode, CHUNK)
    opened.contents.write(inode, 2 * CHUNK, b"staged")
    opened.flush(inode)
    opened.namespace.symlink(ROOT, b"link", b"f", ME)
    opened.commit()
    for name in (b"f", b"link"):
        reap(opened, remove(opened, name))
    opened.collect()
    assert [table for table in OF_FILES if list(opened.index.pages(table))] == []
    assert list(opened.staging.folder.iterdir()) == []
    assert list(opened.packs.folder.iterdir()) == []


def test_a_large_file_goes_in_slices(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long map, many attributes and many tensors are removed a slice at a time."""
    monkeypatch.setattr(reaper_module, "SLICE", 3)
    inode = stored_file(opened, b"f", model_of(*(noise(200, seed) for seed in range(8))))
    for number in range(8):
        opened.attributes.put(inode, b"user.%d" % number, b"x")
    remove(opened, b"f")
    assert reap(opened, inode) > 5
    assert opened.inodes.find(inode) is None


def test_half_a_reaped_file_is_reaped_after_a_crash(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between two slices leaves an orphan to go on with."""
    monkeypatch.setattr(reaper_module, "SLICE", 2)
    inode = stored_file(box.store, b"f", noise(9 * CHUNK))
    remove(box.store, b"f")
    assert not box.store.orphans.reap(inode)
    box.store.commit()
    store = box.crash()
    assert store.orphans.orphans() == [inode]
    reap(store, inode)
    assert store.orphans.orphans() == []


def test_a_removed_file_that_is_open_keeps_its_content(opened: Store) -> None:
    """Until it is reaped, a file without a name reads and writes as ever."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    remove(opened, b"f")
    opened.contents.write(inode, 0, b"new")
    opened.ingest_file(inode)
    assert content_of(opened, inode) == b"new" + noise(CHUNK)[3:]


def test_shared_chunks_stay(opened: Store) -> None:
    """What another file uses is not removed with the first."""
    first = stored_file(opened, b"f", noise(3 * CHUNK))
    second = stored_file(opened, b"g", noise(3 * CHUNK))
    reap(opened, remove(opened, b"f"))
    opened.collect()
    assert opened.inodes.find(first) is None
    assert content_of(opened, second) == noise(3 * CHUNK)
