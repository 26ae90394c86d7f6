"""LMDB's lock file: its creation, and the permission to write it."""

from pathlib import Path

from modelfs.store.directory import Directory
from modelfs.store.index.lock_file import LMDB_LOCK_FILE, LOCK_SIZE, may_lock, prepare_lock_file


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
