"""Orphans: removal of inodes without a name."""

import pytest

from modelfs.jobs.check.fsck import check
from modelfs.store.files import orphans
from modelfs.store.index.tables import ROOT, InodeNumber, Table
from modelfs.store.store import Store
from tests.support.run_jobs import collect, ingest_file
from tests.support.stores import CHUNK, ME, Box, content_of, model_of, noise, stored_file

# Tables that are empty after everything was removed and collected.
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


def unlink(store: Store, name: bytes) -> InodeNumber:
    return store.namespace.unlink(ROOT, name)


def remove(store: Store, inode: InodeNumber) -> int:
    """Remove an orphan, and return the number of slices."""
    slices = 1
    for _ in store.orphans.remove(inode):
        assert check(store) == []
        slices += 1
    return slices


def test_nothing_is_left_of_a_file(opened: Store) -> None:
    """After removal and collection, no row and no pack of a file is left."""
    inode = stored_file(opened, b"f", model_of(noise(3 * CHUNK), noise(300)))
    opened.attributes.put(inode, b"user.x", b"x")
    opened.writes.truncate(inode, CHUNK)
    opened.writes.write(inode, 2 * CHUNK, b"staged")
    opened.flush(inode)
    opened.namespace.symlink(ROOT, b"link", b"f", ME)
    opened.commit()
    for name in (b"f", b"link"):
        remove(opened, unlink(opened, name))
    collect(opened)
    assert [table for table in OF_FILES if list(opened.index.pages(table))] == []
    assert list(opened.staging.directory.path.iterdir()) == []
    assert list(opened.packs.directory.path.iterdir()) == []


def test_a_large_file_goes_in_slices(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long map, many attributes and many tensors are removed in slices."""
    monkeypatch.setattr(orphans, "SLICE", 3)
    inode = stored_file(opened, b"f", model_of(*(noise(200, seed) for seed in range(8))))
    for number in range(8):
        opened.attributes.put(inode, b"user.%d" % number, b"x")
    unlink(opened, b"f")
    assert remove(opened, inode) > 5
    assert opened.inodes.find(inode) is None


def test_half_a_removed_file_is_removed_after_a_crash(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash between two slices, the orphan is still listed and can be removed."""
    monkeypatch.setattr(orphans, "SLICE", 2)
    inode = stored_file(box.store, b"f", noise(9 * CHUNK))
    unlink(box.store, b"f")
    next(box.store.orphans.remove(inode))
    box.store.commit()
    store = box.crash()
    assert store.orphans.inodes() == [inode]
    remove(store, inode)
    assert store.orphans.inodes() == []


def test_a_removed_file_that_is_open_keeps_its_content(opened: Store) -> None:
    """An orphan is read and written like any other file until it is removed."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    unlink(opened, b"f")
    opened.writes.write(inode, 0, b"new")
    ingest_file(opened, inode)
    assert content_of(opened, inode) == b"new" + noise(CHUNK)[3:]


def test_shared_chunks_stay(opened: Store) -> None:
    """Chunks that another file shares stay."""
    first = stored_file(opened, b"f", noise(3 * CHUNK))
    second = stored_file(opened, b"g", noise(3 * CHUNK))
    remove(opened, unlink(opened, b"f"))
    collect(opened)
    assert opened.inodes.find(first) is None
    assert content_of(opened, second) == noise(3 * CHUNK)
