"""A store whose control socket no daemon answers."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from modelfs.errors import SamePid
from modelfs.store.disk.directory import Directory
from modelfs.store.index import environment, opening
from modelfs.store.store import Store
from tests.support.fake_daemon import Call
from tests.support.mounts import MODELFS, modelfs, mounted


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
            raise SamePid(SAME_PID)
        return real(folder, with_slots=False, **options)

    monkeypatch.setattr(environment, "open_lmdb", open_lmdb)
    assert call(command, empty).code == 0
    assert asked == [True, False]


IN_A_CONTAINER = ("unshare", "--pid", "--fork", *MODELFS)


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a PID namespace")
@pytest.mark.parametrize("damaged", [False, True])
def test_beside_a_writer_with_this_pid(
    fuse: None, empty: Path, tmp_path: Path, damaged: bool
) -> None:
    """Fsck goes on in a child, which has another PID, and ends with the child's exit code."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    command: list[str | Path] = [*IN_A_CONTAINER, "mount", "--foreground", empty, mountpoint]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        assert "mounted" in daemon.stderr.readline()
        try:
            (mountpoint / "file").write_bytes(os.urandom(100_000))
            modelfs("sync", mountpoint)
            if damaged:
                for pack in (empty / "packs").iterdir():
                    flip_middle_byte(pack)
            checked = subprocess.run(
                [*IN_A_CONTAINER, "fsck", "--data", empty],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            modelfs("umount", mountpoint)
        assert daemon.wait(20) == 0
    assert checked.returncode == (4 if damaged else 0), checked.stderr
    assert ("no damage: 1 file" in checked.stdout) == (not damaged)


def flip_middle_byte(path: Path) -> None:
    """Damage a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


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
