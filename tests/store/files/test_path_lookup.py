"""Paths in a store: names, "..", and symbolic links."""

from pathlib import Path

import pytest

from modelfs.errors import NotADirectory, NotFound
from modelfs.store.files.path_lookup import LINKS_MAX, StrPath, inode_at
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store
from tests.support.stores import FOLDER, ME, new_file


@pytest.fixture
def file(opened: Store) -> InodeNumber:
    """The file `a/b/file`, in a store with links."""
    names = opened.namespace
    a = names.create(ROOT, b"a", FOLDER, ME).inode
    b = names.create(a, b"b", FOLDER, ME).inode
    names.symlink(ROOT, b"relative", b"a/b", ME)
    names.symlink(b, b"up", b"../../relative/file", ME)
    names.symlink(ROOT, b"absolute", b"/a/b/file", ME)
    names.symlink(ROOT, b"out", b"a/../../x", ME)
    names.symlink(ROOT, b"self", b"self", ME)
    for number in range(LINKS_MAX):
        names.symlink(ROOT, b"link%d" % (number + 1), b"link%d" % number, ME)
    names.symlink(ROOT, b"link0", b"a/b/file", ME)
    return new_file(opened, b"file", b"1", b)


@pytest.mark.parametrize(
    "path",
    [
        "a/b/file",
        "/a//b/./file",
        Path("a/b/../b/file"),
        "relative/file",
        "a/b/up",
        f"link{LINKS_MAX - 1}",
    ],
)
def test_paths_of_a_file(opened: Store, file: InodeNumber, path: StrPath) -> None:
    """A path leads through folders, and through as many links as the kernel follows."""
    assert inode_at(opened.namespace, opened.inodes, path) == file


def test_paths_from_a_folder(opened: Store, file: InodeNumber) -> None:
    """A path begins at the given folder, and may lead above it."""
    folder = inode_at(opened.namespace, opened.inodes, "a")
    for path in ("b/file", "../a/b/file"):
        assert inode_at(opened.namespace, opened.inodes, path, folder) == file
    assert inode_at(opened.namespace, opened.inodes, "") == ROOT


@pytest.mark.parametrize(
    ("path", "error", "why"),
    [
        ("gone", NotFound, "not in the store"),
        ("a/b/file/x", NotADirectory, "file is not a folder"),
        ("..", NotFound, "out of the store"),
        ("out", NotFound, "out of the store"),
        ("absolute", NotFound, "leads to /a/b/file"),
        ("self", NotFound, "circle"),
        (f"link{LINKS_MAX}", NotFound, "circle"),
        ("x" * 256, NotFound, "is not in the store: "),
        ("a\0b", NotFound, "is not in the store: invalid name"),
    ],
)
def test_paths_that_lead_nowhere(
    opened: Store, file: InodeNumber, path: str, error: type[Exception], why: str
) -> None:
    """A path of no inode is an error with the reason."""
    with pytest.raises(error, match=why):
        inode_at(opened.namespace, opened.inodes, path)
