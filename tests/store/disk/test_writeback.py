"""Asking the kernel for a write-back that failed."""

import ctypes
import errno
import os
from pathlib import Path

import pytest

from modelfs.store.disk import writeback
from modelfs.store.disk.writeback import answer_waits, take_error


def test_a_sound_file_has_no_error(tmp_path: Path) -> None:
    """A file without a failed write-back has no error, on any file system."""
    for folder in (tmp_path, Path("/dev/shm")):
        fd = os.open(folder / "modelfs-writeback", os.O_RDWR | os.O_CREAT)
        try:
            os.write(fd, b"x")
            assert take_error(fd) == 0
        finally:
            os.close(fd)
            (folder / "modelfs-writeback").unlink()


def test_other_file_systems_are_asked_by_fdatasync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the mapping of a file may be another one, the error is that of fdatasync."""

    def fails(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writeback, "_OWN_MAPPING", frozenset())
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        assert answer_waits(fd)
        assert take_error(fd) == 0
        monkeypatch.setattr(os, "fdatasync", fails)
        assert take_error(fd) == errno.ENOSPC
    finally:
        os.close(fd)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_the_errno_of_the_kernel_is_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """A failure that `sync_file_range` reports is returned; where it is no call, fdatasync asks."""

    def fails(*_: object) -> int:
        ctypes.set_errno(error)
        return -1

    def has_no_call(*_: object) -> int:
        ctypes.set_errno(errno.ENOSYS)
        return -1

    monkeypatch.setattr(writeback, "answer_waits", lambda _: False)
    monkeypatch.setattr(writeback, "_sync_file_range", fails)
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    with (tmp_path / "file").open("wb") as file:
        assert take_error(file.fileno()) == error
        assert not synced
        monkeypatch.setattr(writeback, "_sync_file_range", has_no_call)
        assert take_error(file.fileno()) == 0
        assert synced == [file.fileno()]
