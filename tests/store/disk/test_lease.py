"""Leases: other programs that have a file open."""

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.store.disk.lease import has_leases, is_open_elsewhere, is_open_for_writing
from tests.support.served_store import Failing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "f"
    path.write_bytes(bytes(4096))
    return path


@pytest.fixture
def fd(path: Path) -> Iterator[int]:
    with path.open("rb") as file:
        yield file.fileno()


def test_a_file_that_no_program_has(fd: int) -> None:
    """It is neither written nor read, and the question leaves no lease behind."""
    for _ in range(2):
        assert (has_leases(fd), is_open_for_writing(fd), is_open_elsewhere(fd)) == (
            True,
            False,
            False,
        )
    assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_UNLCK


def test_a_reader(fd: int, path: Path) -> None:
    """A reader does not write."""
    with path.open("rb"):
        assert (is_open_for_writing(fd), is_open_elsewhere(fd)) == (False, True)
    assert not is_open_elsewhere(fd)


def test_a_writer(fd: int, path: Path) -> None:
    """A writer counts until it has closed the file, and its mapping is gone."""
    with path.open("r+b") as file:
        pages = mmap.mmap(file.fileno(), 0)
    assert (is_open_for_writing(fd), is_open_elsewhere(fd)) == (True, True)
    pages.close()
    assert (is_open_for_writing(fd), is_open_elsewhere(fd)) == (False, False)


@pytest.mark.parametrize(
    ("error", "is_unknown"),
    [(errno.EAGAIN, True), (errno.EACCES, True), (errno.EINVAL, False), (errno.ENOLCK, False)],
)
def test_file_systems_without_leases(
    fd: int, monkeypatch: pytest.MonkeyPatch, error: int, *, is_unknown: bool
) -> None:
    """Where there are none, the kernel passes no file; a file of another user may be passed."""
    monkeypatch.setattr(fcntl, "fcntl", Failing(fcntl.fcntl, OSError(error, os.strerror(error))))
    assert not has_leases(fd)
    monkeypatch.setattr(fcntl, "fcntl", Failing(fcntl.fcntl, OSError(error, os.strerror(error))))
    assert is_open_for_writing(fd) == is_unknown
