"""A store whose control socket no daemon answers."""

import os
from pathlib import Path

import pytest

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
