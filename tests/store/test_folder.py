"""The folder of a store: its format, and the lock that excludes other processes."""

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from modelfs.errors import (
    FolderMissing,
    IndexLost,
    NotAStore,
    StoreBusy,
    StoreNotTrusted,
    StoreReadOnly,
    UnsupportedFormat,
)
from modelfs.jobs.check.fsck import check
from modelfs.store.create import create_store
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import (
    FORMAT_FILE,
    FORMAT_TEXT,
    INDEX,
    LOCK_FILE,
    PACKS,
    STAGING,
    check_format,
    is_locked,
    lock,
    store_around,
)
from modelfs.store.index.pages.data_file import DATA_FILE
from modelfs.store.index.superblock import FORMAT_VERSION
from modelfs.store.store import Store
from tests.support import users
from tests.support.stores import CHUNK, Box, check_closed, noise, run_apart, stored_file
from tests.support.users import ALICE, BOB, user

HOLD = """
import sys
from pathlib import Path
from modelfs.store.store import Store
store = Store(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
store.abandon()
"""


def test_other_folders_are_no_stores(tmp_path: Path) -> None:
    """A missing folder, a file, and a folder without a format file are no stores."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file", tmp_path):
        with pytest.raises(NotAStore):
            Store(path)


def test_every_flipped_bit_of_the_format(folder: Path) -> None:
    """A damaged format file is an error, unless it still has the number of an older format."""
    path = folder / FORMAT_FILE
    good = path.read_bytes()
    line = good.index(b"\n")
    older: set[int] = set()
    for at in range(len(good)):
        for bit in range(8):
            damaged = bytearray(good)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                version = check_format(Directory(folder))
            except (NotAStore, UnsupportedFormat):
                assert at <= line
            else:
                older |= {version} if at <= line else set()
    assert older <= set(range(1, FORMAT_VERSION))
    path.write_bytes(good)


@pytest.mark.parametrize("text", ["", "something else", "modelfs store, format x\n"])
def test_a_format_file_has_a_fixed_text(folder: Path, text: str) -> None:
    """A folder whose format file has another text is no store."""
    (folder / FORMAT_FILE).write_text(text)
    with pytest.raises(NotAStore):
        Store(folder)


def test_a_newer_format_is_refused(folder: Path) -> None:
    """A store of a later version is neither read nor written."""
    newer = FORMAT_TEXT.format(version=FORMAT_VERSION + 1)
    (folder / FORMAT_FILE).write_text(newer)
    for read_only in (False, True):
        with pytest.raises(UnsupportedFormat):
            Store(folder, read_only=read_only)


def test_one_process_writes(box: Box) -> None:
    """A second writer is refused with StoreBusy; readers are not."""
    script = """
import sys
from pathlib import Path
from modelfs.errors import StoreBusy
from modelfs.jobs.check.fsck import check
from modelfs.store.store import Store
try:
    Store(Path(sys.argv[1]))
except StoreBusy as exc:
    print("busy")
with Store(Path(sys.argv[1]), read_only=True) as store:
    print(len(store.dentries.listing(1, 0, 9)), check(store, data=True))
"""
    stored_file(box.store, b"f", noise(CHUNK))
    assert run_apart(script, box.path).splitlines() == ["busy", "1 []"]


def test_a_lock_without_permission(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreadable lock file is an error that names the file and the store's owner."""

    def refuse(name: object, *more: Any, **options: Any) -> int:
        if name == LOCK_FILE:
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_file(name, *more, **options)  # type: ignore[arg-type]

    open_file = os.open
    owner = folder.stat().st_uid
    message = rf"permission denied: {folder}/lock \(owned by user {owner}\)"
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(StoreReadOnly, match=message):
            Store(folder)


def test_a_killed_writer_holds_no_lock(folder: Path) -> None:
    """The lock ends with its process, even if that is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(StoreBusy):
            Store(folder)
        process.kill()
    with Store(folder) as store:
        assert check(store) == []


def test_locks_of_readers_and_writers(folder: Path) -> None:
    """Readers share a lock that excludes a writer; the message names the process that has it."""
    writer = lock(Directory(folder), fcntl.LOCK_EX)
    assert is_locked(Directory(folder))
    with pytest.raises(StoreBusy, match=f"process {os.getpid()}"):
        lock(Directory(folder), fcntl.LOCK_SH)
    writer.close()
    assert not is_locked(Directory(folder))
    readers = [lock(Directory(folder), fcntl.LOCK_SH) for _ in range(2)]
    assert not is_locked(Directory(folder))
    for reader in readers:
        with pytest.raises(StoreBusy):
            lock(Directory(folder), fcntl.LOCK_EX)
        reader.close()
    lock(Directory(folder), fcntl.LOCK_EX).close()


def test_a_writer_makes_a_missing_lock_file(folder: Path) -> None:
    """A store whose lock file is gone can be written, and is locked; a reader makes none."""
    (folder / LOCK_FILE).unlink()
    with pytest.raises(StoreReadOnly):
        lock(Directory(folder), fcntl.LOCK_SH)
    with Store(folder):
        assert is_locked(Directory(folder))
    assert (folder / LOCK_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_store_without_an_index_gets_no_new_one(folder: Path, damage: str) -> None:
    """A missing or empty index is an error, and no empty index hides the loss."""
    data = folder / INDEX / "data.mdb"
    whole = data.read_bytes()
    data.unlink()
    if damage == "empty":
        data.touch()
    for read_only in (True, False):
        with pytest.raises(IndexLost):
            Store(folder, read_only=read_only)
    assert not data.exists() or data.stat().st_size == 0
    data.write_bytes(whole)
    assert check_closed(folder) == []


# -- stores in the hands of other users


READ, WRITE = True, False
OPENED, REFUSED = "opened", "StoreNotTrusted"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A store of ALICE's that all users may read, and that is not locked by a process."""
    with tempfile.TemporaryDirectory() as top:
        Path(top).chmod(0o755)
        path = Path(top) / "store"
        create_store(path)
        for each in (path, *path.rglob("*")):
            os.chown(each, ALICE.uid, ALICE.gid)
            each.chmod(0o755 if each.is_dir() else 0o644)
        yield path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_stores_of_other_users(shared: Path) -> None:
    """A process opens its own store; an ordinary one reads others; root needs trust for both."""
    modules = ("modelfs.store.store", "modelfs.reader.entry")
    path = str(shared)
    with (
        user(ALICE, shared.parent, *modules) as alice,
        user(BOB, shared.parent, *modules) as bob,
    ):
        cases: list[tuple[Callable[..., object], bool, bool, str]] = [
            (alice, WRITE, False, OPENED),
            (alice, READ, False, OPENED),
            (bob, WRITE, False, "StoreReadOnly"),  # for its modes
            (bob, READ, False, OPENED),
            (bob, WRITE, True, "StoreReadOnly"),
            (users.outcome, WRITE, False, REFUSED),
            (users.outcome, READ, False, REFUSED),
            (users.outcome, READ, True, OPENED),
            (users.outcome, WRITE, True, OPENED),
            (alice, WRITE, False, OPENED),  # root has left no file of its own
        ]
        for who, read_only, trust, expected in cases:
            assert who(users.open_store, path, read_only, trust) == expected
        assert {each.stat().st_uid for each in (shared, *shared.rglob("*"))} == {ALICE.uid}
        for mode in (0o775, 0o757):
            shared.chmod(mode)
            everyone: list[Callable[..., object]] = [alice, bob, users.outcome]
            for who in everyone:
                assert who(users.open_store, path, READ, False) == REFUSED
                assert who(users.open_store, path, READ, True) == OPENED
        assert bob(users.open_store, path, WRITE, False) == REFUSED
        assert "trust=True" in str(bob(users.read_files, path, False))


@pytest.mark.parametrize("name", [FORMAT_FILE, f"{INDEX}/{DATA_FILE}"])
def test_a_store_with_a_file_that_others_may_write(folder: Path, name: str) -> None:
    """It is opened with trust only, although its folders are its owner's alone."""
    (folder / name).chmod(0o620)
    for read_only in (False, True):
        with pytest.raises(StoreNotTrusted, match=f"{name} .* chmod -R go-w {folder}.$"):
            Store(folder, read_only=read_only)
        Store(folder, read_only=read_only, trust=True).abandon()
    (folder / name).chmod(0o600)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_reader_of_another_users_store_changes_nothing(shared: Path) -> None:
    """Not even times, and no new file: the lock file of LMDB is not opened for writing."""

    def state() -> dict[Path, tuple[int, ...]]:
        paths = (shared, *shared.rglob("*"))
        return {path: (*path.stat()[:7], path.stat().st_mtime_ns) for path in paths}

    before = state()
    with user(BOB, shared.parent, "modelfs.reader.entry") as bob:
        assert bob(users.read_files, str(shared), False) == {}
    assert state() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb"])
def test_a_reader_follows_no_link_of_another_user(shared: Path, name: str) -> None:
    """A file of the reader's, in whose place the owner put a link, stays as it is."""
    private = shared.parent / "private"
    private.write_bytes(b"of the reader" * 1000)
    os.chown(private, BOB.uid, BOB.gid)
    link = shared / INDEX / name
    link.unlink(missing_ok=True)
    link.symlink_to(private)
    with user(BOB, shared.parent, "modelfs.reader.entry") as bob:
        for trust in (False, True):
            error = bob(users.read_files, str(shared), trust)
            assert isinstance(error, str)
            assert error.startswith(f"IrregularFile: permission denied: {link} (a symbolic link")
    assert private.read_bytes() == b"of the reader" * 1000


PARTS: Final = (
    *(FORMAT_FILE, LOCK_FILE, INDEX, PACKS, STAGING),
    *(f"{INDEX}/data.mdb", f"{INDEX}/lock.mdb"),
)


@pytest.mark.parametrize("part", PARTS)
def test_no_part_of_a_store_is_a_link(folder: Path, part: str) -> None:
    """With links in its folder a store is not opened, although the files are there."""
    path = folder / part
    moved = folder.parent / "moved"
    Store(folder).close()
    path.rename(moved)
    path.symlink_to(moved)
    files = [moved, *(moved.rglob("*") if moved.is_dir() else ())]
    before = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    ways = [(False, False), (False, True)]
    if part != LOCK_FILE:  # a reader with slots does not open it
        ways.append((True, False))
    for read_only, trust in ways:
        with pytest.raises(StoreNotTrusted, match=f"{path} .a symbolic link"):
            Store(folder, read_only=read_only, trust=trust)
    assert [(file.stat().st_size, file.stat().st_mtime_ns) for file in files] == before
    path.unlink()
    moved.rename(path)
    assert check_closed(folder) == []


@pytest.mark.parametrize("name", [STAGING, PACKS])
def test_an_empty_folder_that_a_backup_left_out(folder: Path, name: str) -> None:
    """The store is not opened without it, and is as before when it is made again."""
    (folder / name).rmdir()
    for read_only in (True, False):
        with pytest.raises(FolderMissing, match=f"{folder / name} is missing"):
            Store(folder, read_only=read_only)
    (folder / name).mkdir(mode=0o700)
    assert check_closed(folder) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
@pytest.mark.parametrize(
    ("owner", "maker", "is_found"),
    [
        *((0, ALICE.uid, False), (BOB.uid, ALICE.uid, False)),
        *((0, 0, True), (ALICE.uid, 0, True), (ALICE.uid, ALICE.uid, True)),
    ],
)
def test_who_has_made_the_format_file(
    tmp_path: Path, owner: int, maker: int, is_found: bool
) -> None:
    """That of the folder's owner and that of root count: any user can make one in /tmp."""
    file = tmp_path / FORMAT_FILE
    file.write_text(FORMAT_TEXT)
    tmp_path.chmod(0o1777)
    os.chown(tmp_path, owner, owner)
    os.chown(file, maker, maker)
    assert store_around(tmp_path / "new") == (tmp_path if is_found else None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_the_store_around_a_path_in_a_store_of_another_user(shared: Path) -> None:
    """Root and other users find it, even if they may not read its format file."""
    path = shared / PACKS / "new"
    assert store_around(path) == shared
    with user(BOB, shared.parent, "modelfs.store.folder") as bob:
        assert bob(store_around, path) == shared
        (shared / FORMAT_FILE).chmod(0o600)
        assert bob(store_around, path) == shared


def test_the_store_around_a_path(folder: Path) -> None:
    """It is that of any place below its folder, which need not exist; the folder lies in none."""
    for place in (PACKS, "new", "new/deep"):
        assert store_around(folder / place) == folder
    assert store_around(folder) is None


def test_other_files_of_that_name_make_no_store(tmp_path: Path) -> None:
    """A folder with a text file, a FIFO or a link of the name FORMAT is no store."""
    (tmp_path / "text").write_text("the format of something else\n")
    (tmp_path / "format").write_text(FORMAT_TEXT)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("format")
    for name in ("text", "fifo", "link"):
        (tmp_path / name).rename(tmp_path / FORMAT_FILE)
        assert store_around(tmp_path / "new") is None
    (tmp_path / "format").rename(tmp_path / FORMAT_FILE)
    assert store_around(tmp_path / "new") == tmp_path
