"""Paths of a store, and the files that are listed."""

import os
from pathlib import Path

import pytest

from modelfs.errors import InvalidArgument, IsADirectory, NotADirectory, NotFound
from modelfs.reader import names
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store
from tests.support.filled_reader import Make
from tests.support.stores import FOLDER, ME, new_file, stored_file
from tests.support.writer_process import writer_of


def folder(store: Store, *path: bytes) -> InodeNumber:
    """Make folders, one in the other, and return the last one."""
    inode = ROOT
    for name in path:
        try:
            inode = store.namespace.lookup(inode, name)
        except NotFound:
            inode = store.namespace.create(inode, name, FOLDER, ME).inode
    return inode


def link(store: Store, name: bytes, target: bytes, above: InodeNumber = ROOT) -> None:
    store.namespace.symlink(above, name, target, ME)


def fill_some(store: Store) -> None:
    """Make `a/b/file`, `a/b.txt`, `a!`, `empty/`, a fifo, and a file that is not UTF-8."""
    new_file(store, b"file", b"1", folder(store, b"a", b"b"))
    new_file(store, b"b.txt", b"2", folder(store, b"a"))
    new_file(store, b"a!", b"3")
    new_file(store, b"\xff\xfe", b"4", folder(store, b"a"))
    folder(store, b"empty")
    store.namespace.create(ROOT, b"fifo", 0o010644, ME)


def test_files_are_found_by_their_paths(make: Make) -> None:
    """A path of a file finds it however it is written, as text or as a path object."""
    reader = make(fill_some)
    for path in ("a/b/file", "/a/b/file", "a//b/./file", "a/b/../b/file", Path("a/b/file")):
        assert reader[path].pread() == b"1"
        assert path in reader
    assert reader[os.fsdecode(b"a/\xff\xfe")].pread() == b"4"


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("gone", NotFound),
        ("a/gone", NotFound),
        ("a/b/file/x", NotADirectory),
        ("a/b/file/..", NotADirectory),
        ("", IsADirectory),
        ("/", IsADirectory),
        ("a/b", IsADirectory),
        ("fifo", InvalidArgument),
        ("..", NotFound),
        ("a/../../x", NotFound),
        ("x" * 256, NotFound),
        ("a\0b", NotFound),
        ("a/" * 5000, NotFound),
    ],
)
def test_no_file(make: Make, place: str, error: type[Exception]) -> None:
    """A path of no regular file is an error, with the reason."""
    reader = make(fill_some)
    with pytest.raises(error):
        reader[place]
    assert place not in reader


def test_files_are_listed_in_the_order_of_names(make: Make) -> None:
    """Files are listed folder by folder, and folders and special files are not."""
    reader = make(fill_some)
    expected = ["a!", "a/b/file", "a/b.txt", os.fsdecode(b"a/\xff\xfe")]
    # A folder stands where its own name does.
    assert sorted(expected, key=lambda path: path.split("/")) != expected
    assert list(reader) == ["a/b/file", "a/b.txt", os.fsdecode(b"a/\xff\xfe"), "a!"]
    assert [file.path for file in reader.files()] == list(reader)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("a/b/", ["a/b/file"]),
        ("a/b", ["a/b/file", "a/b.txt"]),
        ("/a/b.", ["a/b.txt"]),
        ("a", ["a/b/file", "a/b.txt", "a/\udcff\udcfe", "a!"]),
        ("a/\udcff", ["a/\udcff\udcfe"]),
        ("empty/", []),
        ("gone/", []),
        ("a!/", []),
        ("z", []),
        ("a/b/file", ["a/b/file"]),
    ],
)
def test_files_that_begin_with(make: Make, prefix: str, expected: list[str]) -> None:
    """A prefix is of paths: a folder, a part of a name, or a whole path."""
    assert [file.path for file in make(fill_some).files(prefix)] == expected


def test_links_are_followed(make: Make) -> None:
    """Links to files and to folders are followed, as the Hub's cache has them."""

    def fill(store: Store) -> None:
        new_file(store, b"0123", b"blob", folder(store, b"hub", b"blobs"))
        snapshot = folder(store, b"hub", b"snapshots", b"abc")
        link(store, b"model.bin", b"../../blobs/0123", snapshot)
        link(store, b"main", b"snapshots/abc", folder(store, b"hub"))
        link(store, b"again", b"main/model.bin", folder(store, b"hub"))

    reader = make(fill)
    for path in ("hub/snapshots/abc/model.bin", "hub/main/model.bin", "hub/again"):
        assert reader[path].pread() == b"blob"
    listed = {file.path: file.pread() for file in reader.files("hub/")}
    assert sorted(listed) == ["hub/again", "hub/blobs/0123", "hub/snapshots/abc/model.bin"]
    assert set(listed.values()) == {b"blob"}
    assert [file.path for file in reader.files("hub/main/")] == ["hub/main/model.bin"]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (b"gone", "not in the store"),
        (b"self", "circle"),
        (b"../x", "out of the store"),
        (b"/mnt/models/x", "leads to /mnt/models/x"),
        (b"file/x", "file is not a folder"),
    ],
)
def test_links_that_lead_nowhere(make: Make, target: bytes, why: str) -> None:
    """A link without a file is not listed, and its error has the reason."""

    def fill(store: Store) -> None:
        link(store, b"self", target)
        new_file(store, b"file")

    reader = make(fill)
    with pytest.raises((NotFound, NotADirectory), match=why):
        reader["self"]
    assert list(reader) == ["file"]


def test_hard_links_are_files_each(make: Make) -> None:
    """One content under two names is listed under both."""

    def fill(store: Store) -> None:
        inode = new_file(store, b"one", b"content")
        store.namespace.link(inode, ROOT, b"two")

    reader = make(fill)
    assert {file.path: file.pread() for file in reader.files()} == {
        "one": b"content",
        "two": b"content",
    }


def test_large_folders_are_listed_in_parts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing yields each file once, for any size of a page."""

    def fill(store: Store) -> None:
        for number in range(25):
            new_file(store, b"%02d" % number, folder=folder(store, b"some"))
        new_file(store, b"x", folder=folder(store, b"some", b"05.d"))

    reader = make(fill)
    expected = list(reader)
    assert len(expected) == 26
    for size in (1, 2, 5, 25, 26, 27):
        monkeypatch.setattr(names, "LISTING_PAGE", size)
        assert list(reader) == expected
        assert [file.path for file in reader.files("some/1")] == expected[11:21]


def test_folders_may_lie_deep(make: Make) -> None:
    """A listing goes deeper than Python's stack."""
    reader = make(lambda store: new_file(store, b"x", folder=folder(store, *[b"d"] * 1500)))
    (path,) = reader
    assert path == "d/" * 1500 + "x"
    assert reader[path].size == 0


def test_names_that_stay_are_listed_once(
    path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other names are created, removed and renamed meanwhile."""
    monkeypatch.setattr(names, "LISTING_PAGE", 3)
    reader = make(lambda store: [new_file(store, b"%02d" % number) for number in range(20)])
    with writer_of(path) as writer:
        listed: list[str] = []
        for count, file in enumerate(reader.files()):
            listed.append(file.path)
            writer(f"new_file(store, b'{count:02}.new'); store.commit()")
            if count:
                writer(f"store.namespace.unlink(1, b'{count - 1:02}.new'); store.commit()")
        stayed = [name for name in listed if "." not in name]
        assert stayed == [f"{number:02}" for number in range(20)]
        assert len(listed) == len(set(listed))
        writer("store.namespace.unlink(1, b'05'); store.commit()")
        assert "05" not in reader


def test_a_listing_of_a_folder_that_goes_ends(path: Path, make: Make) -> None:
    """Names of a removed folder are names that are gone."""

    def fill(store: Store) -> None:
        new_file(store, b"x", folder=folder(store, b"a"))
        new_file(store, b"y", folder=folder(store, b"b"))

    listing = make(fill).files()
    assert next(listing).path == "a/x"
    with writer_of(path) as writer:
        writer("folder = store.namespace.lookup(1, b'b'); store.namespace.unlink(folder, b'y')")
        writer("store.namespace.rmdir(1, b'b'); store.commit()")
        assert list(listing) == []


def test_a_file_stays_itself(path: Path, make: Make) -> None:
    """A file that was renamed is read on, and one that was removed is an error."""
    reader = make(
        lambda store: (stored_file(store, b"old", b"1"), stored_file(store, b"new", b"2"))
    )
    old, new = reader["old"], reader["new"]
    with writer_of(path) as writer:
        writer("store.namespace.rename((1, b'old'), (1, b'new')); store.commit()")
        assert old.pread() == b"1"
        assert reader["new"].pread() == b"1"
        assert new.pread() == b"2"  # until nothing in the mount has it open
        writer("drain(store.orphans.remove(store.namespace.lookup(1, b'new') + 1)); store.commit()")
        for call in (new.pread, lambda: new.size, lambda: new.tensors, new.report):
            with pytest.raises(NotFound, match="new was removed"):
                call()
