"""A store whose control socket no daemon answers."""

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from modelfs.errors import StoreBusy
from modelfs.store.directory import Directory
from modelfs.store.index import environment, opening
from modelfs.store.store import Store
from tests.support.fake_daemon import Call
from tests.support.mounts import mounted


@pytest.mark.parametrize("command", ["sync", "gc", "optimize", "scrub", "fsck"])
def test_locked(call: Call, empty: Path, command: str) -> None:
    """The error about a locked store names the process that does not answer."""
    with Store(empty):
        error = call(command, empty).error
    assert f"{empty} is locked by process {os.getpid()}" in error
    assert "does not answer at control.sock" in error


SAME_PID = "is open in a process with the same PID"


@pytest.mark.parametrize("command", ["stats", "fsck"])
def test_beside_a_reader_with_this_pid(
    call: Call, empty: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A command whose PID another container's process has goes without slots in the index."""
    real = opening.open_lmdb
    asked: list[bool] = []

    def open_lmdb(folder: Directory, *, with_slots: bool, **options: Any) -> Any:
        asked.append(with_slots)
        if with_slots:
            raise StoreBusy(SAME_PID)
        return real(folder, with_slots=False, **options)

    monkeypatch.setattr(environment, "open_lmdb", open_lmdb)
    assert call(command, empty).code == 0
    assert asked == [True, False]
    with monkeypatch.context() as patch:
        patch.setattr(environment, "may_lock", lambda folder: True)
        lock = (empty / "lock").open("r+")
        fcntl.flock(lock, fcntl.LOCK_EX)
        with lock:
            # A writer beside it reuses pages that this process may read.
            assert ("locked by process" in (error := call(command, empty).error)) or (
                SAME_PID in error
            )


@pytest.mark.mount
@pytest.mark.parametrize("command", ["sync", "gc", "optimize", "scrub"])
def test_mounted_read_only(
    call: Call, fuse: None, empty: Path, tmp_path: Path, command: str
) -> None:
    """The error about a store that is mounted read-only names the mount, and the way out."""
    path = tmp_path / "mnt"
    with mounted(empty, path, "--read-only"):
        error = call(command, path).error
    assert f"{empty} is locked by process " in error
    assert "mounted read-only" in error
    assert f"`modelfs umount {path}`, and mount it without --read-only" in error
