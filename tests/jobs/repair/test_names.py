"""Repair of names: every file has a path again, and nothing is overwritten."""

from typing import Final

from modelfs.store.index.name_records import Listed
from modelfs.store.index.tables import ROOT, Table, number_key, pair_key, triple_key
from modelfs.store.store import Store
from tests.support.byte_damage import (
    Contents,
    drop_dentry,
    drop_line,
    drop_parent,
    files_of,
    lost_files,
    mend,
    walk,
)
from tests.support.sample_store import Sample
from tests.support.stores import FOLDER as DIRECTORY
from tests.support.stores import ME, new_file

TEXT: Final = b"/folder/text"


def test_a_nameless_inode_is_put_into_lost_and_found(sample: Sample, good: Contents) -> None:
    """A file whose name is gone from all tables has one in `/lost+found`, with its content."""
    drop_line(sample)
    drop_parent(sample)
    drop_dentry(sample)
    mend(sample)
    found = files_of(sample.path)
    assert found.pop(b"/lost+found/inode-%d" % sample.text) == good[TEXT]
    assert found == {path: data for path, data in good.items() if path != TEXT}


def test_an_inode_without_a_row_is_made_anew(sample: Sample, good: Contents) -> None:
    """A file whose inode is gone keeps its name and content; its mode and owner are lost."""
    sample.delete(Table.INODES, number_key(sample.text))
    report = mend(sample)
    assert files_of(sample.path) == good
    assert lost_files(report) == {TEXT}
    with Store(sample.path) as store:
        assert store.inodes.get(sample.text).mode & 0o7777 == 0o600


def test_a_folder_without_a_row_is_made_anew(sample: Sample, good: Contents) -> None:
    """A directory whose inode is gone keeps its name and entries."""
    sample.put(Table.INODES, number_key(sample.folder), b"junk!")
    report = mend(sample)
    assert files_of(sample.path) == good
    assert b"/folder" in lost_files(report)


def test_a_root_that_is_gone_is_made_anew(sample: Sample, good: Contents) -> None:
    """Even without the root's inode every path leads where it did."""
    sample.delete(Table.INODES, number_key(ROOT))
    mend(sample)
    assert files_of(sample.path) == good


def test_names_that_lead_nowhere_are_removed(sample: Sample, good: Contents) -> None:
    """A name of an inode that is gone, and had nothing, is removed and said."""
    empty = new_file(sample.store, b"empty")
    sample.delete(Table.INODES, number_key(empty))
    report = mend(sample)
    assert files_of(sample.path) == good
    assert b"/empty" in lost_files(report)


def test_a_link_without_a_target_is_removed(sample: Sample, good: Contents) -> None:
    """A symbolic link's target cannot be made up."""
    sample.delete(Table.SYMLINKS, number_key(sample.link))
    report = mend(sample)
    assert b"/folder/link" in lost_files(report)
    assert files_of(sample.path) == good


def test_a_circle_of_directories_is_broken(sample: Sample, good: Contents) -> None:
    """Directories that lie in one another are moved to `/lost+found`, with their entries."""
    names = sample.store.namespace
    outer = names.create(ROOT, b"outer", DIRECTORY, ME).inode
    inner = names.create(outer, b"inner", DIRECTORY, ME).inode
    new_file(sample.store, b"deep", folder=inner)
    old = sample.dentry(ROOT, b"outer")
    sample.delete(Table.DENTRIES, number_key(ROOT) + b"outer")
    sample.delete(Table.LISTING, pair_key(ROOT, old.cookie))
    sample.delete(Table.PARENTS, triple_key(outer, ROOT, old.cookie))
    sample.put(Table.DENTRIES, number_key(inner) + b"outer", old.to_bytes())
    line = Listed(outer, b"outer").to_bytes()
    sample.put(Table.LISTING, pair_key(inner, old.cookie), line)
    sample.put(Table.PARENTS, triple_key(outer, inner, old.cookie), b"")
    mend(sample)
    with Store(sample.path) as store:
        assert b"/lost+found/inode-%d/inner/deep" % outer in walk(store.dentries)
    assert good.items() <= files_of(sample.path).items()


def test_lost_and_found_overwrites_nothing(sample: Sample) -> None:
    """Names that are taken are left alone."""
    sample.store.flush(new_file(sample.store, b"lost+found", b"mine"))
    drop_line(sample)
    drop_parent(sample)
    drop_dentry(sample)
    mend(sample)
    found = files_of(sample.path)
    assert found[b"/lost+found"] == b"mine"
    assert b"/lost+found-1/inode-%d" % sample.text in found
