"""Inodes without a record get one with safe metadata, and symbolic links have their targets."""

import dataclasses
import stat
from typing import Final

import pytest

from modelfs.formats.layout import Format
from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.inodes import make_missing, repair_inodes
from modelfs.store.files.window import WINDOW
from modelfs.store.index.name_records import Listed
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent, Inode, WindowRanges
from modelfs.store.index.tables import (
    ROOT,
    InodeNumber,
    Table,
    named_key,
    number_key,
    pair_key,
)
from modelfs.store.store import Store
from tests.support.byte_damage import Contents, bytes_of, files_of, walk
from tests.support.row_changes import Repaired, lost, mended, repaired, rows_in
from tests.support.run_jobs import ingest_all
from tests.support.sample_store import BASE, Sample
from tests.support.stores import content_of

NOBODY: Final = InodeNumber(1000)
TEXT: Final = b"/folder/text"
METADATA: Final = "its mode, owner and times are lost"


def node_after(sample: Sample, inode: InodeNumber, done: Repaired) -> Inode:
    """Return the new record of an inode, which has to be the only change of records."""
    changed = [key for table, key in done.changes if table is Table.INODES]
    assert changed == [number_key(inode)]
    value = done.changes[Table.INODES, number_key(inode)]
    assert value is not None
    return Inode.from_bytes(inode, value)


def tables_changed(done: Repaired) -> set[Table]:
    return {table for table, _ in done.changes}


# -- records that are gone


@pytest.mark.parametrize("junk", [False, True])
def test_a_file_is_made_anew(sample: Sample, good: Contents, junk: bool) -> None:
    """It has the store's owner, mode 600 and its content; the other rows of it are as before."""
    before = rows_in(sample.store)
    old = sample.node(sample.text)
    if junk:
        sample.put(Table.INODES, number_key(sample.text), b"junk!")
    else:
        sample.delete(Table.INODES, number_key(sample.text))
    done = repaired(sample, before)
    node = node_after(sample, sample.text, done)
    assert tables_changed(done) == {Table.INODES, Table.PENDING}
    owner = sample.path.stat()
    assert (node.mode, node.uid, node.gid) == (stat.S_IFREG | 0o600, owner.st_uid, owner.st_gid)
    assert (node.nlink, node.parent, node.format) == (1, 0, Format.PLAIN)
    assert (node.size, node.mapped, node.xattr_rows) == (old.size, old.mapped, old.xattr_rows)
    assert node.atime_ns == node.mtime_ns == node.ctime_ns > old.ctime_ns
    size = f"and its size: it ends where its content ends, at {old.size}"
    assert lost(f"inode {sample.text}: {METADATA}, {size}", TEXT) in done.actions
    assert files_of(sample.path) == good


def test_a_file_that_has_bytes_staged_ends_with_them(sample: Sample, good: Contents) -> None:
    """The size is that of the staged content, if that ends behind the extents."""
    before = rows_in(sample.store)
    size = sample.node(sample.staged).size
    sample.delete(Table.INODES, number_key(sample.staged))
    done = repaired(sample, before)
    assert node_after(sample, sample.staged, done).size == size
    assert files_of(sample.path) == good


def test_the_end_of_the_content_is_the_last_of_all(context: RepairContext, sample: Sample) -> None:
    """The last extent or window counts, and a window counts to its own end at most."""
    chunk, _ = sample.chunk_at(sample.base, 1000)
    index = sample.store.index
    rows: list[tuple[Table, int, Extent | WindowRanges]] = [
        (Table.EXTENTS, 0, Extent(0, chunk, 0, 1000)),
        (Table.EXTENTS, 5000, Extent(5000, chunk, 0, 100)),
        (Table.STAGED, 0, WindowRanges(1, RangeSet([(10, 3000)]))),
    ]
    for table, second, row in rows:
        index.put(table, pair_key(NOBODY, second), row.to_bytes())
    wide = WindowRanges(1, RangeSet([(WINDOW, 3 * WINDOW)]))
    index.put(Table.STAGED, pair_key(NOBODY + 1, 1), wide.to_bytes())
    repair_inodes(context)
    assert sample.node(NOBODY).size == 5100
    assert sample.node(InodeNumber(NOBODY + 1)).size == 2 * WINDOW


def test_a_folder_is_made_anew(sample: Sample, good: Contents) -> None:
    """A directory whose record is gone has its entries, and mode 700."""
    before = rows_in(sample.store)
    old = sample.node(sample.folder)
    sample.delete(Table.INODES, number_key(sample.folder))
    done = repaired(sample, before)
    node = node_after(sample, sample.folder, done)
    assert tables_changed(done) == {Table.INODES}
    assert node.mode == stat.S_IFDIR | 0o700
    assert (node.nlink, node.parent) == (old.nlink, ROOT)
    assert lost(f"inode {sample.folder}: {METADATA}", b"/folder") in done.actions
    assert files_of(sample.path) == good


def test_the_root_is_made_anew(sample: Sample, good: Contents) -> None:
    """Every path leads where it did, and the root is its own parent."""
    before = rows_in(sample.store)
    old = sample.node(ROOT)
    sample.delete(Table.INODES, number_key(ROOT))
    done = repaired(sample, before)
    node = node_after(sample, ROOT, done)
    assert (node.mode, node.nlink, node.parent) == (stat.S_IFDIR | 0o700, old.nlink, ROOT)
    assert files_of(sample.path) == good


def test_an_empty_store_has_a_root(context: RepairContext, sample: Sample) -> None:
    """Without any name, and without its record, the root gets one, as its own parent."""
    index = sample.store.index
    for table in (Table.LISTING, Table.DENTRIES, Table.PARENTS, Table.INODES):
        for key in list(index.keys(table)):
            index.delete(table, key)
    repair_inodes(context)
    root = sample.node(ROOT)
    assert (root.mode, root.parent) == (stat.S_IFDIR | 0o700, ROOT)


def test_a_root_that_is_a_file_is_a_directory_again(sample: Sample, good: Contents) -> None:
    """A record of another type is set aside, and the root gets a new one."""
    before = rows_in(sample.store)
    root = dataclasses.replace(sample.node(ROOT), mode=stat.S_IFREG | 0o644, parent=InodeNumber(0))
    sample.put_node(root)
    done = repaired(sample, before)
    assert node_after(sample, ROOT, done).mode == stat.S_IFDIR | 0o700
    assert files_of(sample.path) == good


def test_a_link_is_made_anew(sample: Sample) -> None:
    """A symbolic link whose record is gone leads where it did."""
    before = rows_in(sample.store)
    old = sample.node(sample.link)
    sample.delete(Table.INODES, number_key(sample.link))
    done = repaired(sample, before)
    node = node_after(sample, sample.link, done)
    assert tables_changed(done) == {Table.INODES}
    assert (node.mode, node.size) == (stat.S_IFLNK | 0o777, old.size)
    assert done.actions == [lost(f"inode {sample.link}: {METADATA}", b"/folder/link")]
    with Store(sample.path, read_only=True) as store:
        assert store.namespace.readlink(sample.link) == b"text"


def test_a_name_in_one_table_makes_no_folder(context: RepairContext, sample: Sample) -> None:
    """A line of a listing that look-ups do not have may have a damaged key."""
    line = Listed(sample.text, b"odd").to_bytes()
    sample.store.index.put(Table.LISTING, pair_key(NOBODY, 500), line)
    repair_inodes(context)
    assert sample.store.inodes.find(NOBODY) is None
    dentry = sample.dentry(sample.folder, b"text").to_bytes()
    sample.store.index.put(Table.DENTRIES, named_key(NOBODY, b"odd"), dentry)
    repair_inodes(context)
    assert stat.S_ISDIR(sample.node(NOBODY).mode)


def test_a_record_that_is_there_stays(context: RepairContext, sample: Sample) -> None:
    """Nothing is made for an inode that has a record, of whatever type."""
    before = rows_in(sample.store)
    make_missing(context, sample.text, stat.S_IFDIR | 0o700, 5)
    repair_inodes(context)
    assert rows_in(sample.store) == before
    assert context.actions == []


def test_only_files_are_queued_for_ingest(context: RepairContext, sample: Sample) -> None:
    """A new record of a file has a request, since its format is unknown; a folder's has none."""
    make_missing(context, NOBODY, stat.S_IFREG | 0o600, 5)
    make_missing(context, NOBODY + 1, stat.S_IFDIR | 0o700, 0)
    has = sample.store.index.has
    assert has(Table.PENDING, number_key(NOBODY))
    assert not has(Table.PENDING, number_key(NOBODY + 1))
    assert [action.files for action in context.actions] == [
        (context.path(NOBODY),),
        (context.path(NOBODY + 1),),
    ]


def test_a_tensor_file_that_was_made_anew_is_recognised(sample: Sample, good: Contents) -> None:
    """Ingest finds the format of a model again, and its tensors stay."""
    before = rows_in(sample.store)
    old = sample.node(sample.base)
    sample.delete(Table.INODES, number_key(sample.base))
    done = repaired(sample, before)
    assert node_after(sample, sample.base, done).format is Format.PLAIN
    with Store(sample.path) as store:
        ingest_all(store)
        node = store.inodes.get(sample.base)
        assert (node.format, node.tensor_rows) == (old.format, old.tensor_rows)
        assert content_of(store, sample.base) == bytes_of(good, BASE)


# -- symbolic links


def test_a_link_without_a_target_is_removed(sample: Sample, good: Contents) -> None:
    """Its target cannot be made up: record and name go, and the report has the path."""
    sample.delete(Table.SYMLINKS, number_key(sample.link))
    done = repaired(sample, rows_in(sample.store))
    message = f"symbolic link {sample.link} has lost its target: removed"
    assert lost(message, b"/folder/link") in done.actions
    assert done.changes[Table.INODES, number_key(sample.link)] is None
    with Store(sample.path, read_only=True) as store:
        assert b"/folder/link" not in walk(store.dentries)
    assert files_of(sample.path) == good


def test_a_link_has_the_size_of_its_target(sample: Sample) -> None:
    """A wrong size is corrected, and no other row is changed."""
    before = rows_in(sample.store)
    sample.put_node(dataclasses.replace(sample.node(sample.link), size=100))
    done = repaired(sample, before)
    assert done.actions == [mended(f"symbolic link {sample.link} has its size again")]
    assert done.changes == {}


def test_a_target_of_no_link_is_set_aside(sample: Sample) -> None:
    """A file that has the target of a link keeps its bytes, and loses the target."""
    before = rows_in(sample.store)
    sample.put(Table.SYMLINKS, number_key(sample.text), b"elsewhere")
    done = repaired(sample, before)
    assert done.actions == [lost(f"a link target of inode {sample.text}, which is no link")]
    assert done.changes == {}


def test_an_empty_target_is_none(context: RepairContext, sample: Sample) -> None:
    """No link is made of an empty target, and one that has it is removed."""
    sample.store.index.put(Table.SYMLINKS, number_key(NOBODY), b"")
    sample.store.index.put(Table.SYMLINKS, number_key(sample.link), b"")
    repair_inodes(context)
    assert sample.store.inodes.find(NOBODY) is None
    assert sample.store.inodes.find(sample.link) is None
    assert not sample.store.index.has(Table.SYMLINKS, number_key(NOBODY))
    assert not sample.store.index.has(Table.SYMLINKS, number_key(sample.link))
    assert context.actions == [
        lost(f"symbolic link {sample.link} has lost its target: removed", b"/folder/link"),
        *(
            lost(f"a link target of inode {each}, which is no link")
            for each in (sample.link, NOBODY)
        ),
    ]
