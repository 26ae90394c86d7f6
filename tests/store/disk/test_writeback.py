"""Asking the kernel for a write-back that failed."""

import errno
import os
from pathlib import Path

import pytest

from modelfs.store.disk import writeback
from modelfs.store.disk.writeback import take_error


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
    monkeypatch.setattr(writeback, "_own_mappings", {})
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        assert take_error(fd) == 0
        monkeypatch.setattr(os, "fdatasync", fails)
        assert take_error(fd) == errno.ENOSPC
    finally:
        os.close(fd)


def test_a_bad_descriptor_is_an_error(tmp_path: Path) -> None:
    """A descriptor for which the kernel cannot answer raises, or has an error."""
    reading, writing = os.pipe()
    try:
        assert take_error(reading) != 0
    finally:
        os.close(reading)
        os.close(writing)
