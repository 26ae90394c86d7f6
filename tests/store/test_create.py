"""Creating stores."""

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from threading import Barrier
from typing import Final

import pytest

from modelfs.errors import DirectoryNotEmpty, InvalidArgument, NotADirectory, StoreNotTrusted
from modelfs.store import create as making
from modelfs.store.create import create_store
from modelfs.store.disk.directory import Directory
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.interruptions import at_point, interrupt
from tests.support.loop_disks import disk
from tests.support.stores import check_closed

STRANGER: Final = 4001
RANKS: Final = 8
STEP: Final = 11  # of instructions; each takes 0.1 s


def test_a_new_store_is_empty_and_private(tmp_path: Path) -> None:
    """A new store is sound, has an empty root, and is readable by its owner only."""
    create_store(tmp_path / "new")
    assert check_closed(tmp_path / "new") == []
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    with Store(tmp_path / "new") as store:
        assert store.dentries.listing(ROOT, 0, 9) == []
        assert store.superblock.chunk_size == making.CHUNK_SIZE
        assert store.inventory.statistics().files == 0


def test_two_stores_hash_differently(tmp_path: Path) -> None:
    """Each store has its own identity and hash seed."""
    blocks = []
    for name in ("one", "two"):
        create_store(tmp_path / name)
        with Store(tmp_path / name) as store:
            blocks.append(store.superblock)
    assert blocks[0].uuid != blocks[1].uuid
    assert blocks[0].hash_seed != blocks[1].hash_seed


def test_a_store_is_made_in_an_empty_folder_only(tmp_path: Path) -> None:
    """A folder with any file in it is left as it is."""
    (tmp_path / "file").touch()
    with pytest.raises(DirectoryNotEmpty):
        create_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_of_ones_own_is_closed_to_others(tmp_path: Path) -> None:
    """An empty folder gets the mode of a store."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    create_store(tmp_path / "open")
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o700
    assert check_closed(tmp_path / "open") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make folders of others")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """Its owner could exchange the files of the store; it is left as it is."""
    path = tmp_path / "theirs"
    path.mkdir(mode=0o755)
    os.chown(path, STRANGER, STRANGER)
    with pytest.raises(StoreNotTrusted, match=f"{path} .owned by user {STRANGER}"):
        create_store(path)
    assert (list(path.iterdir()), path.stat().st_mode & 0o777) == ([], 0o755)


def test_the_top_of_a_new_file_system(tmp_path: Path) -> None:
    """The folder that mkfs.ext4 makes there is no content; anywhere else it is."""
    (tmp_path / "plain" / "lost+found").mkdir(parents=True)
    with pytest.raises(DirectoryNotEmpty):
        create_store(tmp_path / "plain")
    with disk(tmp_path / "image", tmp_path / "disk", 64 << 20) as top:
        create_store(top)
        assert check_closed(top) == []
        (top / "file").touch()
        (top / "FORMAT").unlink()
        with pytest.raises(DirectoryNotEmpty):
            create_store(top)


def test_something_else_than_a_folder(tmp_path: Path) -> None:
    """A file, and a link to nothing, are refused and left as they are."""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(NotADirectory):
        create_store(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        create_store(tmp_path / "link")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("size", [0, 4095, 4096 + 1, (1 << 30) + 4096])
def test_chunk_sizes_are_checked(tmp_path: Path, size: int) -> None:
    """A chunk size that no store can have is refused, and nothing is created."""
    with pytest.raises(InvalidArgument):
        create_store(tmp_path / "store", chunk_size=size)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("step", ["_put_first_rows", "write_format"])
def test_a_store_that_cannot_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Its folder is left empty, so that the next attempt succeeds."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(making, step, full)
        with pytest.raises(OSError, match="full"):
            create_store(tmp_path / "new")
    assert os.listdir(tmp_path / "new") == []
    create_store(tmp_path / "new")
    assert check_closed(tmp_path / "new") == []


def outcome(folder: Path) -> str:
    """Create a store, and return how that ended."""
    try:
        create_store(folder)
    except (DirectoryNotEmpty, KeyboardInterrupt) as exc:
        return type(exc).__name__
    return "made"


def at_each_point(tmp_path: Path, act: Callable[[Path], object]) -> Iterator[tuple[Path, str]]:
    """Create stores, with a call at one point of each; yields the folders and outcomes."""
    for number in count(0, STEP):
        folder = tmp_path / str(number)
        with at_point(number, partial(act, folder), "store/create.py") as places:
            ended = outcome(folder)
        if not places:
            return
        yield folder, ended


def test_two_at_the_same_time(tmp_path: Path) -> None:
    """Wherever the one is when the other begins, one makes the store, and the other nothing."""
    others: list[str] = []
    for folder, ended in at_each_point(tmp_path, lambda folder: others.append(outcome(folder))):
        assert sorted([ended, others.pop()]) == ["DirectoryNotEmpty", "made"], folder
        assert check_closed(folder) == []
    assert len(os.listdir(tmp_path)) > 20


def test_an_interruption(tmp_path: Path) -> None:
    """Wherever Ctrl-C comes, there is a whole store, or the next attempt makes one."""
    for folder, ended in at_each_point(tmp_path, lambda _: interrupt()):
        assert ended == "KeyboardInterrupt"
        assert (folder / "FORMAT").exists() or outcome(folder) == "made"
        assert check_closed(folder) == []


def test_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many that have found the folder empty, one makes a store; no other removes its files."""
    open_empty, start = making._open_empty, Barrier(RANKS)

    def opened_by_all(folder: Path) -> Directory:
        directory = open_empty(folder)
        start.wait()
        return directory

    monkeypatch.setattr(making, "_open_empty", opened_by_all)
    with ThreadPoolExecutor(RANKS) as ranks:
        for number in range(5):
            folder = tmp_path / str(number)
            outcomes = [*ranks.map(outcome, [folder] * RANKS)]
            assert sorted(outcomes) == ["DirectoryNotEmpty"] * (RANKS - 1) + ["made"]
            assert check_closed(folder) == []


def test_a_store_that_is_there_is_not_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have mounted it before the error that comes last."""
    sync = Directory.sync

    def fails(directory: Directory) -> None:
        if directory.exists("FORMAT"):
            raise OSError(errno.EIO, "broken")
        sync(directory)

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "sync", fails)
        with pytest.raises(OSError, match="broken"):
            create_store(tmp_path / "new")
    assert check_closed(tmp_path / "new") == []


@pytest.mark.parametrize("name", ["index", "packs", "staging", "lock", "FORMAT"])
def test_files_of_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A file that comes into the folder once it was found empty stays; all others are removed."""
    make_files = making._make_files

    def with_file(directory: Directory, chunk_size: int, made: list[str]) -> None:
        (directory.path / name).write_text("mine")
        make_files(directory, chunk_size, made)

    monkeypatch.setattr(making, "_make_files", with_file)
    with pytest.raises(DirectoryNotEmpty):
        create_store(tmp_path / "new")
    assert os.listdir(tmp_path / "new") == [name]
    assert (tmp_path / "new" / name).read_text() == "mine"
