"""The kernel's table of file locks."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelfs import proc
from modelfs.file_locks import FileLock, locks


def locks_of(path: Path) -> list[FileLock]:
    inode = path.stat().st_ino
    return [lock for lock in locks() if (lock.inode, lock.pid) == (inode, os.getpid())]


def test_locks_of_both_kinds(tmp_path: Path) -> None:
    """A lock is listed with its kind, its process, its file and its first byte."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 77)
        listed = sorted(locks_of(path), key=lambda lock: lock.kind)
    assert [(lock.kind, lock.is_exclusive, lock.start) for lock in listed] == [
        ("FLOCK", True, 0),
        ("POSIX", True, 77),
    ]
    assert locks_of(path) == []


def test_a_shared_lock(tmp_path: Path) -> None:
    """A lock of readers is not exclusive."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert [lock.is_exclusive for lock in locks_of(path)] == [False]


def test_a_process_that_waits_has_no_lock(tmp_path: Path) -> None:
    """A lock that another process waits for is left out."""
    path = tmp_path / "file"
    code = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX)"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        inode = str(path.stat().st_ino)
        with subprocess.Popen([sys.executable, "-c", code, path]) as waiting:
            while not any("->" in line and inode in line for line in proc.lines("locks")):
                assert waiting.poll() is None
                time.sleep(0.01)
            assert [lock.pid for lock in locks() if lock.inode == int(inode)] == [os.getpid()]
            fcntl.flock(file, fcntl.LOCK_UN)
            assert waiting.wait(60) == 0


def test_the_number_of_the_inode(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is decimal, and follows the device."""
    lines = [
        "3: POSIX  ADVISORY  WRITE 22 fe:1f:2313447 22 22",
        "4: LEASE  ACTIVE    READ  22 <none>:0 0 EOF",  # of no file
        "",
    ]
    monkeypatch.setattr(proc, "lines", lambda *_: lines)
    assert list(locks()) == [FileLock("POSIX", True, 22, 2313447, 22)]
