"""Names on a mount: renames, links, and the removal of open files."""

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support.mounts import Mount, drop_kernel_caches, run_python
from tests.support.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, failing, rename2

pytestmark = pytest.mark.mount


def test_rename_without_replacing(here: Path) -> None:
    """RENAME_NOREPLACE takes a free name and refuses a taken one."""
    (here / "a").write_text("a")
    (here / "b").write_text("b")
    with failing(errno.EEXIST):
        rename2(here / "a", here / "b", RENAME_NOREPLACE)
    assert ((here / "a").read_text(), (here / "b").read_text()) == ("a", "b")
    rename2(here / "a", here / "c", RENAME_NOREPLACE)
    assert sorted(os.listdir(here)) == ["b", "c"]


def test_exchanged_files(here: Path) -> None:
    """RENAME_EXCHANGE swaps two files; inodes and link counts go with the names."""
    (here / "a").write_text("a")
    (here / "b").write_text("b")
    os.link(here / "b", here / "c")
    rename2(here / "a", here / "b", RENAME_EXCHANGE)
    assert ((here / "a").read_text(), (here / "b").read_text()) == ("b", "a")
    assert (here / "a").samefile(here / "c")
    assert ((here / "a").stat().st_nlink, (here / "b").stat().st_nlink) == (2, 1)


def test_exchanged_file_and_folder(here: Path) -> None:
    """RENAME_EXCHANGE swaps a file and a full folder, across folders."""
    (here / "one" / "folder").mkdir(parents=True)
    (here / "one" / "folder" / "child").write_text("child")
    (here / "two").mkdir()
    (here / "two" / "file").write_text("file")
    rename2(here / "one" / "folder", here / "two" / "file", RENAME_EXCHANGE)
    assert (here / "one" / "folder").read_text() == "file"
    assert (here / "two" / "file" / "child").read_text() == "child"


def test_exchange_needs_both(here: Path) -> None:
    """RENAME_EXCHANGE with a name that is not there changes nothing."""
    (here / "a").write_text("a")
    with failing(errno.ENOENT):
        rename2(here / "a", here / "b", RENAME_EXCHANGE)
    assert os.listdir(here) == ["a"]


@pytest.mark.parametrize(
    ("old", "new", "number"),
    [
        ("folder", "full", errno.ENOTEMPTY),
        ("file", "folder", errno.EISDIR),
        ("folder", "file", errno.ENOTDIR),
        ("full", "full/folder", errno.EINVAL),
        ("missing", "file", errno.ENOENT),
        ("file", "missing/file", errno.ENOENT),
        ("file", "x" * 256, errno.ENAMETOOLONG),
    ],
)
def test_refused_renames(here: Path, old: str, new: str, number: int) -> None:
    """A rename that cannot be done has its errno and changes nothing."""
    (here / "file").touch()
    (here / "folder").mkdir()
    (here / "full" / "child").mkdir(parents=True)
    with failing(number):
        (here / old).rename(here / new)
    assert sorted(os.listdir(here)) == ["file", "folder", "full"]
    assert os.listdir(here / "full") == ["child"]


def test_rename_to_itself(here: Path) -> None:
    """A rename between two names of one file does nothing."""
    (here / "a").write_text("a")
    os.link(here / "a", here / "b")
    (here / "a").rename(here / "b")
    (here / "a").rename(here / "a")
    assert sorted(os.listdir(here)) == ["a", "b"]


def test_rename_of_a_folder_with_known_children(here: Path) -> None:
    """After a folder was renamed its known and open children answer under the new name."""
    (here / "a" / "deep").mkdir(parents=True)
    child = here / "a" / "deep" / "child"
    child.write_text("old")
    with child.open("r+") as file:
        (here / "a").rename(here / "b")
        file.write("new")
        file.flush()
        assert (here / "b" / "deep" / "child").read_text() == "new"
    assert not child.exists()
    (here / "a").mkdir()
    assert os.listdir(here / "a") == []
    (here / "b" / "deep" / "child").unlink()
    assert os.listdir(here / "b" / "deep") == []


def test_rename_over_an_open_file(here: Path) -> None:
    """A file that was renamed over stays whole while it is open, without links."""
    (here / "old").write_text("old")
    (here / "new").write_text("new")
    with (here / "old").open("r+") as file:
        (here / "new").rename(here / "old")
        assert os.fstat(file.fileno()).st_nlink == 0
        assert file.read() == "old"
        file.write("er")
        file.flush()
        assert os.pread(file.fileno(), 9, 0) == b"older"
    assert (here / "old").read_text() == "new"


def test_rename_over_a_mapped_file(here: Path) -> None:
    """A file that was renamed over stays whole while it is mapped."""
    run_python(
        """
        import mmap, os, sys

        old, new = (os.path.join(sys.argv[1], name) for name in ("old", "new"))
        for path, letter in ((old, b"o"), (new, b"n")):
            with open(path, "wb") as file:
                file.write(letter * 500_000)
        with open(old, "rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        os.replace(new, old)
        with open(old, "rb") as file:
            assert file.read() == b"n" * 500_000
        assert mapping[:] == b"o" * 500_000
        """,
        here,
    )


def test_unlink_while_open(here: Path, shared_mount: Mount) -> None:
    """A removed file can be read and written while it is open, over commits, too."""
    (here / "x").write_bytes(b"content" * 100_000)
    shared_mount.sync()
    with (here / "x").open("r+b") as file:
        (here / "x").unlink()
        assert os.listdir(here) == []
        assert os.fstat(file.fileno()).st_nlink == 0
        os.pwrite(file.fileno(), b"CONTENT", 350_000)
        shared_mount.sync()
        drop_kernel_caches()
        assert os.pread(file.fileno(), 21, 349_993) == b"contentCONTENTcontent"
        (here / "x").write_text("another")
        assert os.pread(file.fileno(), 7, 0) == b"content"
    assert (here / "x").read_text() == "another"


def test_hard_links(here: Path) -> None:
    """Links share inode, content and mode; the count follows as they come and go."""
    (here / "a").write_text("one")
    (here / "folder").mkdir()
    os.link(here / "a", here / "b")
    os.link(here / "b", here / "folder" / "c")
    assert (here / "a").stat().st_nlink == 3
    (here / "b").write_text("two")
    (here / "a").chmod(0o600)
    (here / "a").unlink()
    node = (here / "folder" / "c").stat()
    assert (node.st_nlink, node.st_ino, node.st_mode & 0o777) == (
        2,
        (here / "b").stat().st_ino,
        0o600,
    )
    assert (here / "folder" / "c").read_text() == "two"


def test_refused_links(here: Path) -> None:
    """A folder has no second link, and a taken name takes none."""
    (here / "folder").mkdir()
    (here / "file").touch()
    with failing(errno.EPERM):
        os.link(here / "folder", here / "x")
    with failing(errno.EEXIST):
        os.link(here / "file", here / "folder")


def test_link_to_an_unlinked_open_file(here: Path) -> None:
    """A file without names is gone for link(2), open or not."""
    (here / "a").touch()
    with (here / "a").open() as file:
        (here / "a").unlink()
        with failing(errno.ENOENT):
            # Given a descriptor to start from, Python calls linkat(2), which follows /proc's link.
            os.link(f"/proc/self/fd/{file.fileno()}", here / "b", src_dir_fd=file.fileno())


@pytest.mark.parametrize("target", ["a", "../x/./y//z", "/nowhere", "x" * 4000, "é\udcff"])
def test_symlinks(here: Path, target: str) -> None:
    """A symbolic link gives back its target as it was spelt."""
    (here / "link").symlink_to(target)
    assert os.readlink(here / "link") == target
    assert (here / "link").lstat().st_size == len(os.fsencode(target))


def test_symlink_loop(here: Path) -> None:
    """Links that point at each other end in ELOOP."""
    (here / "a").symlink_to("b")
    (here / "b").symlink_to("a")
    with failing(errno.ELOOP):
        (here / "a").read_text()


@pytest.mark.parametrize(
    "name", [b"x" * 255, b"\xff\xfe not utf-8", b"new\nline", b" ", b"...", "é".encode()]
)
def test_odd_names(here: Path, shared_mount: Mount, name: bytes) -> None:
    """Any name of up to 255 bytes is kept byte for byte."""
    path = os.path.join(os.fsencode(here), name)
    with open(path, "wb") as file:
        file.write(b"x")
    shared_mount.sync()
    drop_kernel_caches()
    assert os.listdir(os.fsencode(here)) == [name]
    assert os.stat(path).st_size == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda path: path.touch(),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("x"),
        lambda path: path.stat(),
        lambda path: path.unlink(),
    ],
    ids=["create", "mkdir", "symlink", "stat", "unlink"],
)
def test_names_too_long(here: Path, call: Callable[[Path], object]) -> None:
    """A name of 256 bytes is ENAMETOOLONG for every call."""
    with failing(errno.ENAMETOOLONG):
        call(here / ("x" * 256))


@pytest.mark.parametrize(
    ("call", "number"),
    [
        (lambda top: (top / "full").rmdir(), errno.ENOTEMPTY),
        (lambda top: (top / "file").rmdir(), errno.ENOTDIR),
        (lambda top: (top / "full").unlink(), errno.EISDIR),
        (lambda top: (top / "missing").unlink(), errno.ENOENT),
        (lambda top: (top / "missing").rmdir(), errno.ENOENT),
        (lambda top: (top / "full").mkdir(), errno.EEXIST),
        (lambda top: (top / "file" / "x").touch(), errno.ENOTDIR),
        (lambda top: (top / "missing" / "x").touch(), errno.ENOENT),
        (lambda top: (top / "full").write_text(""), errno.EISDIR),
    ],
    ids=[
        "rmdir of a full folder",
        "rmdir of a file",
        "unlink of a folder",
        "unlink of nothing",
        "rmdir of nothing",
        "mkdir of a taken name",
        "create below a file",
        "create below nothing",
        "write to a folder",
    ],
)
def test_refused_calls(here: Path, call: Callable[[Path], object], number: int) -> None:
    """A call that cannot be done has its errno and changes nothing."""
    (here / "file").touch()
    (here / "full" / "child").mkdir(parents=True)
    with failing(number):
        call(here)
    assert sorted(os.listdir(here)) == ["file", "full"]


def test_removed_folder_that_is_open(here: Path) -> None:
    """A folder removed while open is empty and takes no new names."""
    (here / "folder").mkdir()
    fd = os.open(here / "folder", os.O_RDONLY | os.O_DIRECTORY)
    try:
        (here / "folder").rmdir()
        assert os.listdir(fd) == []
        with failing(errno.ENOENT):
            os.open("x", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
    finally:
        os.close(fd)


def test_link_count_of_folders(here: Path) -> None:
    """A removed folder that is open has no links; a folder counts its own two at least."""
    (here / "folder").mkdir()
    assert (here / "folder").stat().st_nlink >= 2
    fd = os.open(here / "folder", os.O_RDONLY | os.O_DIRECTORY)
    try:
        (here / "folder").rmdir()
        assert os.fstat(fd).st_nlink == 0
    finally:
        os.close(fd)


def test_many_levels(here: Path) -> None:
    """A file sixty folders deep is found after the kernel forgot the way."""
    folder = here.joinpath(*(f"{n}" for n in range(60)))
    folder.mkdir(parents=True)
    (folder / "x").write_text("deep")
    drop_kernel_caches()
    assert (folder / "x").read_text() == "deep"


def test_negative_lookups_do_not_stick(here: Path) -> None:
    """A name that was looked for in vain is found once it exists, however it came."""
    (here / "source").write_text("x")
    for name in ("created", "linked", "renamed"):
        assert not (here / name).exists()
    (here / "created").touch()
    os.link(here / "source", here / "linked")
    (here / "source").rename(here / "renamed")
    assert sorted(os.listdir(here)) == ["created", "linked", "renamed"]
    assert all((here / name).exists() for name in os.listdir(here))


def longest_path(top: Path, length: int) -> Path:
    """Make folders below `top`, and return a free path there of `length` bytes."""
    folder = top
    while length - len(str(folder)) > 256:
        folder /= "x" * min(255, length - len(str(folder)) - 3)
        folder.mkdir()
    return folder / ("y" * (length - len(str(folder)) - 1))


def test_longest_path(here: Path, shared_mount: Mount) -> None:
    """A path of 4,095 bytes is a path like any other; the system takes none that is longer."""
    path = longest_path(here, 4095)
    path.write_text("far")
    path.rename(path.with_name("z"))
    path.symlink_to("z")
    shared_mount.sync()
    drop_kernel_caches()
    assert len(os.fsencode(path)) == 4095
    assert path.read_text() == "far"
    with failing(errno.ENAMETOOLONG):
        Path(f"{path}y").stat()


def test_folders_deeper_than_a_path(here: Path, shared_mount: Mount) -> None:
    """A file is written and read below folders that no path is long enough for, and reported."""
    content = os.fsencode(here) * 10_000  # no other test's
    (here / "copy").write_bytes(content)
    fd = os.open(here, os.O_PATH)
    for depth in range(40):
        name = f"{depth:0255}"
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_PATH, dir_fd=fd)
        os.close(fd)
        fd = below
    try:
        with open("x", "wb", opener=partial(os.open, dir_fd=fd)) as file:
            file.write(content)
        shared_mount.sync()
        drop_kernel_caches()
        with open("x", "rb", opener=partial(os.open, dir_fd=fd)) as file:
            assert file.read() == content
    finally:
        os.close(fd)
    [sharer] = shared_mount.inspect(here / "copy")["shared_with"]
    assert sharer["path"] == f"/{here.name}/" + "".join(f"{n:0255}/" for n in range(40)) + "x"
