"""Files without a name, and allocation."""

import errno
import os
from pathlib import Path

import pytest

from modelfs.store.disk.allocation import KEEP_SIZE, NamelessFile, allocate, file_system_type

MB = 1 << 20


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_nameless_file_takes_room_until_it_is_closed(tmp_path: Path) -> None:
    """It has blocks and no name, and is closed once: by `close`, or with its last reference."""
    before = open_files()
    file = NamelessFile(str(tmp_path), MB)
    assert file.size >= MB
    assert os.fstat(file.fd).st_nlink == 0
    assert os.listdir(tmp_path) == []
    file.close()
    file.close()
    assert open_files() == before
    file = NamelessFile(str(tmp_path), MB)
    del file
    assert open_files() == before


def test_a_nameless_file_that_has_no_room_is_closed(tmp_path: Path) -> None:
    """If the blocks cannot be allocated, or the folder is gone, no file stays open."""
    before = open_files()
    with pytest.raises(OSError, match=r"No space left|File too large"):
        NamelessFile(str(tmp_path), 1 << 60)
    with pytest.raises(FileNotFoundError):
        NamelessFile(str(tmp_path / "none"), MB)
    assert open_files() == before


def test_blocks_ahead_of_the_end(tmp_path: Path) -> None:
    """Blocks may be allocated without making the file longer; the errno of a failure is kept."""
    with (tmp_path / "f").open("wb") as file:
        allocate(file.fileno(), MB, KEEP_SIZE)
        status = os.fstat(file.fileno())
        assert (status.st_size, status.st_blocks * 512 >= MB) == (0, True)
        allocate(file.fileno(), MB)
        assert os.fstat(file.fileno()).st_size == MB
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        allocate(-1, MB)
    assert file_system_type(-1) == 0
