"""LMDB's lock file: its creation, and the permission to write it."""

import errno
import os
from pathlib import Path

import pytest

from modelfs.errors import StoreFull
from modelfs.store.disk import allocation
from modelfs.store.disk.allocation import BTRFS, EXT4
from modelfs.store.disk.directory import Directory
from modelfs.store.index import lock_file
from modelfs.store.index.lock_file import (
    LMDB_LOCK_FILE,
    LOCK_SIZE,
    check_room,
    may_lock,
    prepare_lock_file,
)


def test_the_lock_file_has_its_blocks(tmp_path: Path) -> None:
    """LMDB's lock file is made once, private and with all its blocks."""
    prepare_lock_file(Directory(tmp_path))
    status = (tmp_path / LMDB_LOCK_FILE).stat()
    assert (status.st_size, status.st_mode & 0o777) == (LOCK_SIZE, 0o600)
    assert status.st_blocks * 512 >= LOCK_SIZE
    (tmp_path / LMDB_LOCK_FILE).write_bytes(b"readers")
    prepare_lock_file(Directory(tmp_path))
    assert (tmp_path / LMDB_LOCK_FILE).read_bytes() == b"readers"


def test_the_permission_is_that_of_the_file(tmp_path: Path) -> None:
    """Without a file there is no permission, since LMDB would create it."""
    assert not may_lock(Directory(tmp_path))
    prepare_lock_file(Directory(tmp_path))
    assert may_lock(Directory(tmp_path))


def refuse(monkeypatch: pytest.MonkeyPatch, kind: int, error: int) -> None:
    """Let the file system be of a kind, and have no room for a file without a name."""

    def refused(folder: str, size: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(lock_file, "file_system_type", lambda _: kind)
    monkeypatch.setattr(allocation, "NamelessFile", refused)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_for_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """Where each write needs room and there is none, the error names the store and the file."""
    refuse(monkeypatch, BTRFS, error)
    with pytest.raises(StoreFull, match=f"no space left .* {tmp_path}/{LMDB_LOCK_FILE} cannot be"):
        check_room(Directory(tmp_path))


@pytest.mark.parametrize(
    ("kind", "error"), [(EXT4, errno.ENOSPC), (BTRFS, errno.EACCES), (BTRFS, errno.EOPNOTSUPP)]
)
def test_room_that_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int, error: int
) -> None:
    """A full disk where the file has its blocks is no error, nor is a folder of another user."""
    refuse(monkeypatch, kind, error)
    check_room(Directory(tmp_path))
