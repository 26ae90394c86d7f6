"""Creating stores."""

import errno
import os
from pathlib import Path
from typing import Final

import pytest

from modelfs.errors import DirectoryNotEmpty, InvalidArgument, NotADirectory, StoreNotTrusted
from modelfs.store import create as making
from modelfs.store.create import create_store
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.loop_disks import disk
from tests.support.stores import check_closed

STRANGER: Final = 4001


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
