"""Invariants of names: one damage, one finding."""

import dataclasses

import pytest

from modelfs.store.index.counters import NEXT_COOKIE
from modelfs.store.index.name_records import Dentry
from modelfs.store.index.tables import ROOT, InodeNumber, Table, number_key, pair_key, triple_key
from tests.support.sample_store import Sample
from tests.support.stores import FOLDER, ME


def test_a_missing_listing_line_is_found(sample: Sample) -> None:
    """A name that look-ups find and listings do not is reported by its path."""
    cookie = sample.dentry(sample.folder, b"text").cookie
    sample.delete(Table.LISTING, pair_key(sample.folder, cookie))
    assert sample.finding() == ("names-agree", (b"/folder/text",), ())


def test_a_missing_dentry_is_found(sample: Sample) -> None:
    """A name that listings have and look-ups do not find is reported by its path."""
    sample.delete(Table.DENTRIES, number_key(sample.folder) + b"text")
    assert sample.finding() == ("names-agree", (b"/folder/text",), ())


def test_a_missing_way_back_is_found(sample: Sample) -> None:
    """A name without a row at its inode is reported by its path."""
    cookie = sample.dentry(sample.folder, b"text").cookie
    sample.delete(Table.PARENTS, triple_key(sample.text, sample.folder, cookie))
    assert sample.finding() == ("names-agree", (b"/folder/text",), ())


def test_a_way_back_to_no_name_is_found(sample: Sample) -> None:
    """A name that only the inode knows of is reported by the path that it does have."""
    sample.put(Table.PARENTS, triple_key(sample.text, ROOT, 1000), b"")
    assert sample.finding() == ("names-agree", (b"/folder/text",), ())


def name(sample: Sample, folder: InodeNumber, name: bytes, inode: InodeNumber, cookie: int) -> None:
    """Put the three rows of a name, whatever it leads to."""
    sample.put(Table.DENTRIES, number_key(folder) + name, Dentry(inode, cookie).to_bytes())
    sample.put(Table.LISTING, pair_key(folder, cookie), inode.to_bytes(8, "little") + name)
    sample.put(Table.PARENTS, triple_key(inode, folder, cookie), b"")


def new_cookie(sample: Sample) -> int:
    with sample.store.index.change():
        return sample.store.counters.allocate(NEXT_COOKIE)


def test_a_name_that_leads_nowhere_is_found(sample: Sample) -> None:
    """A name of an inode that does not exist is reported by its path."""
    name(sample, sample.folder, b"lost", InodeNumber(1000), new_cookie(sample))
    assert sample.finding() == ("name-inode", (b"/folder/lost",), ())


def test_a_name_in_a_file_is_found(sample: Sample) -> None:
    """A name in an inode that is no directory is reported by its path."""
    name(sample, sample.text, b"odd", sample.staged, new_cookie(sample))
    assert sample.finding() == ("name-folder", (b"/folder/text/odd",), ())


def test_a_cookie_that_was_never_handed_out_is_found(sample: Sample) -> None:
    """A name at a cookie above the counter is reported by its path."""
    sample.put_node(dataclasses.replace(sample.node(sample.text), nlink=2))
    name(sample, ROOT, b"text", sample.text, 1000)
    assert sample.finding() == ("cookie", (b"/text",), ())


def test_a_cookie_used_twice_is_found(sample: Sample) -> None:
    """Two names at one cookie, in whatever directories, are reported by the second's path."""
    sample.put_node(dataclasses.replace(sample.node(sample.text), nlink=2))
    name(sample, sample.folder, b"more", sample.text, sample.dentry(ROOT, b"staged").cookie)
    assert sample.finding() == ("cookie", (b"/folder/more",), ())


@pytest.mark.parametrize("which", ["text", "folder"])
def test_a_wrong_link_count_is_found(sample: Sample, which: str) -> None:
    """A link count that is not the number of names is reported, of files and directories."""
    inode = {"text": sample.text, "folder": sample.folder}[which]
    sample.put_node(dataclasses.replace(sample.node(inode), nlink=7))
    files = (b"/folder/text",) if which == "text" else (b"/folder",)
    assert sample.finding() == ("link-count", files, ())


def test_a_nameless_inode_is_found(sample: Sample) -> None:
    """An inode without a name that is no orphan either is reported by its number."""
    sample.put_node(dataclasses.replace(sample.node(sample.orphan), nlink=1))
    sample.delete(Table.ORPHANS, number_key(sample.orphan))
    assert sample.finding() == ("nameless", (b"(inode %d)" % sample.orphan,), ())


def test_a_file_with_a_parent_is_found(sample: Sample) -> None:
    """Only directories have a parent."""
    sample.put_node(dataclasses.replace(sample.node(sample.text), parent=sample.folder))
    assert sample.finding() == ("parent", (b"/folder/text",), ())


def test_a_directory_elsewhere_than_its_parent_is_found(sample: Sample) -> None:
    """A directory whose record names another parent than the one it lies in is reported."""
    other = sample.store.namespace.create(ROOT, b"other", FOLDER, ME).inode
    sample.put_node(dataclasses.replace(sample.node(other), nlink=3))
    sample.put_node(dataclasses.replace(sample.node(ROOT), nlink=3))
    sample.put_node(dataclasses.replace(sample.node(sample.folder), parent=other))
    assert sample.finding() == ("parent", (b"/folder",), ())


def test_a_circle_of_directories_is_found(sample: Sample) -> None:
    """A branch of directories that does not lead to the root is reported once."""
    outer = sample.store.namespace.create(ROOT, b"outer", FOLDER, ME).inode
    inner = sample.store.namespace.create(outer, b"inner", FOLDER, ME).inode
    cookie = sample.dentry(ROOT, b"outer").cookie
    sample.delete(Table.DENTRIES, number_key(ROOT) + b"outer")
    sample.delete(Table.LISTING, pair_key(ROOT, cookie))
    sample.delete(Table.PARENTS, triple_key(outer, ROOT, cookie))
    name(sample, inner, b"outer", outer, cookie)
    sample.put_node(dataclasses.replace(sample.node(ROOT), nlink=3))
    sample.put_node(dataclasses.replace(sample.node(outer), parent=inner))
    sample.put_node(dataclasses.replace(sample.node(inner), nlink=3))
    assert sample.finding()[0] == "tree"


def test_an_orphan_with_a_name_is_found(sample: Sample) -> None:
    """A file that is listed for removal though it has a name is reported."""
    sample.put(Table.ORPHANS, number_key(sample.text), b"")
    assert sample.finding() == ("orphan", (b"/folder/text",), ())


def test_an_unlisted_orphan_is_found(sample: Sample) -> None:
    """An inode without a link that nothing would ever remove is reported by its number."""
    sample.delete(Table.ORPHANS, number_key(sample.orphan))
    assert sample.finding() == ("orphan", (b"(inode %d)" % sample.orphan,), ())


def test_an_orphan_that_does_not_exist_is_found(sample: Sample) -> None:
    """An inode that is listed for removal exists."""
    sample.put(Table.ORPHANS, number_key(1000), b"")
    assert sample.finding() == ("orphan", (), ())


def test_a_link_without_a_target_is_found(sample: Sample) -> None:
    """A symbolic link that leads nowhere at all is reported by its path."""
    sample.delete(Table.SYMLINKS, number_key(sample.link))
    assert sample.finding() == ("symlink", (b"/folder/link",), ())


def test_a_target_of_another_size_is_found(sample: Sample) -> None:
    """A symbolic link's target is as long as its size says."""
    sample.put(Table.SYMLINKS, number_key(sample.link), b"elsewhere")
    assert sample.finding() == ("symlink", (b"/folder/link",), ())


def test_a_target_of_a_file_is_found(sample: Sample) -> None:
    """Nothing but a symbolic link has a target."""
    sample.put(Table.SYMLINKS, number_key(sample.text), b"target")
    assert sample.finding() == ("symlink", (b"/folder/text",), ())
