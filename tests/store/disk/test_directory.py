"""Directories of a store: no link is followed, and no other user's file is used."""

import errno
import gc
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from modelfs.errors import IrregularFile, StoreNotTrusted
from modelfs.store.disk.directory import Directory, Identity
from modelfs.store.index.lock_file import LMDB_LOCK_FILE
from tests.support.connections import open_files

STRANGER: Final = 4001

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")


@pytest.fixture
def folder(tmp_path: Path) -> Directory:
    (tmp_path / "store").mkdir(mode=0o700)
    return Directory(tmp_path / "store")


def make_link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "target")


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


USES: Final[dict[str, Callable[[Directory], object]]] = {
    "read": lambda folder: folder.read("file"),
    "write": lambda folder: os.close(folder.open("file", os.O_WRONLY | os.O_APPEND)),
    "create": lambda folder: os.close(folder.open("file", os.O_RDWR | os.O_CREAT)),
    "status": lambda folder: folder.status("file"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("make", [make_link, make_fifo, Path.mkdir], ids=["link", "fifo", "folder"])
def test_only_regular_files_are_used(
    folder: Directory, make: Callable[[Path], None], use: str
) -> None:
    """Anything else in the place of a file is refused, without a wait for another process."""
    target = folder.path.parent / "target"
    target.write_bytes(b"of another program")
    make(folder.path / "file")
    with pytest.raises((IrregularFile, IsADirectoryError), match=str(folder.path / "file")):
        USES[use](folder)
    assert target.read_bytes() == b"of another program"


@pytest.mark.parametrize("use", USES)
def test_a_link_to_nothing_creates_nothing(folder: Directory, use: str) -> None:
    """A link does not let a file be made elsewhere."""
    make_link(folder.path / "file")
    with pytest.raises(IrregularFile, match="symbolic link"):
        USES[use](folder)
    assert not (folder.path.parent / "target").exists()


@only_root
@pytest.mark.parametrize("use", USES)
def test_files_of_other_users_are_refused(folder: Directory, use: str) -> None:
    """All files belong to the folder's owner, unless all owners are trusted."""
    path = folder.path / "file"
    path.touch()
    os.chown(path, STRANGER, STRANGER)
    with pytest.raises(StoreNotTrusted, match=f"{path} .owned by user {STRANGER}"):
        USES[use](folder)
    USES[use](Directory(folder.path, trust=True))
    assert path.stat().st_uid == STRANGER


@pytest.mark.parametrize("mode", [0o660, 0o602])
@pytest.mark.parametrize("use", USES)
def test_files_that_others_may_write_are_refused(folder: Directory, use: str, mode: int) -> None:
    """Only the owner may write a file, unless all are trusted; others may read it."""
    path = folder.path / "file"
    path.touch()
    path.chmod(0o644)
    USES[use](folder)
    path.chmod(mode)
    with pytest.raises(
        StoreNotTrusted, match=f"its mode is {mode:o}; .* chmod -R go-w {folder.path}"
    ):
        USES[use](folder)
    USES[use](Directory(folder.path, trust=True))


def test_a_teams_readers_may_write_the_lock_file_of_lmdb(folder: Directory) -> None:
    """Read transactions have their slots in it."""
    path = folder.path / LMDB_LOCK_FILE
    path.touch()
    path.chmod(0o666)
    assert folder.status(LMDB_LOCK_FILE).st_size == 0


def test_folders_are_real(folder: Directory) -> None:
    """A link to a folder is not a part of a store, with trust neither; a file is no folder."""
    (folder.path.parent / "target").mkdir()
    make_link(folder.path / "packs")
    (folder.path / "file").touch()
    for trust in (False, True):
        opened = Directory(folder.path, trust=trust)
        with pytest.raises(IrregularFile, match=r"packs \(a symbolic link"):
            opened.subdirectory("packs")
        with pytest.raises(NotADirectoryError):
            opened.subdirectory("file")


@only_root
def test_folders_are_of_one_owner(folder: Directory) -> None:
    """A folder of another user, or one that others may write in, needs trust."""
    for owner, mode in ((STRANGER, 0o700), (0, 0o770), (0, 0o702)):
        path = folder.path / f"{owner}-{mode:o}"
        path.mkdir()
        path.chmod(mode)
        os.chown(path, owner, owner)
        with pytest.raises(StoreNotTrusted, match=str(path)):
            folder.subdirectory(path.name)
        assert Directory(folder.path, trust=True).subdirectory(path.name).path == path


def test_a_moved_folder_stays_the_same(folder: Directory) -> None:
    """Names are looked up in the folder that was opened, and not in one that took its path."""
    path = folder.path
    (path / "file").write_bytes(b"old")
    path.rename(path.with_name("moved"))
    path.mkdir()
    (path / "file").write_bytes(b"new")
    (path / "other").touch()
    assert folder.read("file") == b"old"
    assert folder.names() == ["file"]
    folder.unlink("file")
    assert (path / "file").read_bytes() == b"new"
    assert os.readlink(folder.link) == str(path.with_name("moved"))
    assert folder.identity == Identity(*_numbers(path.with_name("moved")))
    assert folder.identity != Identity(*_numbers(path))


def _numbers(path: Path) -> tuple[int, int]:
    return path.stat().st_dev, path.stat().st_ino


def test_names_are_those_of_regular_files(folder: Directory) -> None:
    """Links, folders and sockets are left out: no sweep deletes them."""
    (folder.path / "file").touch()
    (folder.path / "folder").mkdir()
    make_link(folder.path / "link")
    make_socket(folder.path / "socket")
    assert folder.names() == ["file"]


@pytest.fixture
def lent(folder: Directory) -> Directory:
    """A folder of another user's, opened by root with trust."""
    os.chown(folder.path, STRANGER, STRANGER)
    return Directory(folder.path, trust=True)


@only_root
def test_new_files_belong_to_the_owner(lent: Directory) -> None:
    """Files and folders that root makes are the owner's, and for him only."""
    os.close(lent.open("file", os.O_RDWR | os.O_CREAT | os.O_EXCL))
    lent.make_subdirectory("folder")
    for name, mode in (("file", 0o600), ("folder", 0o700)):
        status = (lent.path / name).stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (STRANGER, mode)
    assert os.access(__file__, os.W_OK)  # this thread is root again


@only_root
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("content", [b"", b"of root"])
def test_files_of_roots_are_not_the_owners(lent: Directory, use: str, content: bytes) -> None:
    """One that was moved into the folder is neither used nor given away, even an empty one."""
    path = lent.path / "file"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StoreNotTrusted, match=f"{path} .owned by user 0"):
        USES[use](lent)
    assert (path.stat().st_uid, path.read_bytes()) == (0, content)


@only_root
def test_folders_of_roots_are_not_the_owners(lent: Directory) -> None:
    """A sweep would delete the files in one that was moved into the folder."""
    (lent.path / "staging").mkdir()
    with pytest.raises(StoreNotTrusted, match=r"staging .owned by user 0"):
        lent.subdirectory("staging")


@only_root
def test_nothing_is_given_by_its_name(lent: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of root's that takes the name of a new folder at once stays root's."""
    (lent.path / "private").touch()
    made = os.mkdir

    def make_and_exchange(name: str, mode: int, *, dir_fd: int) -> None:
        made(name, mode, dir_fd=dir_fd)
        for old, new in ((name, "moved"), ("private", name)):
            os.rename(old, new, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", make_and_exchange)
    lent.make_subdirectory("folder")
    assert (lent.path / "folder").stat().st_uid == 0
    assert (lent.path / "moved").stat().st_uid == STRANGER


def test_sockets(folder: Directory) -> None:
    """A path for connect(2) is that of a socket in the folder, and of nothing else."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(f"{folder.link}/socket")
        listener.listen()
        with folder.opened_socket("socket") as path:
            client.connect(path)
    (folder.path / "link").symlink_to("socket")
    (folder.path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(IrregularFile, match=name), folder.opened_socket(name):
            pass
    with pytest.raises(FileNotFoundError), folder.opened_socket("missing"):
        pass


def test_errors_name_the_whole_path(folder: Directory) -> None:
    """The errors of system calls with descriptors name only the last part by themselves."""
    calls: list[Callable[[], object]] = [
        lambda: folder.read("missing"),
        lambda: folder.status("missing"),
        lambda: folder.rename("missing", "new"),
        lambda: folder.subdirectory("missing"),
    ]
    for call in calls:
        with pytest.raises(FileNotFoundError, match=f"{folder.path}/missing"):
            call()
    folder.make_subdirectory("folder")
    with pytest.raises(FileExistsError, match=f"{folder.path}/folder"):
        folder.make_subdirectory("folder")
    with pytest.raises(IsADirectoryError, match=f"{folder.path}/folder"):
        folder.unlink("folder")


def test_without_proc(folder: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc is missing the error names that, and not the store."""

    def missing(path: str) -> str:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    monkeypatch.setattr(os, "readlink", missing)
    with pytest.raises(OSError, match="is not mounted"):
        Directory(folder.path)


def test_a_closed_directory_is_unusable(folder: Directory) -> None:
    """The kernel gives its number to another file, which is not taken for the directory."""
    gc.collect()
    before = open_files()
    directory = Directory(folder.path)
    directory.close()
    with Path(os.devnull).open("rb"), pytest.raises(OSError, match="descriptor"):
        directory.open("file", os.O_RDWR | os.O_CREAT)
    directory.close()
    Directory(folder.path)
    gc.collect()
    assert open_files() == before
