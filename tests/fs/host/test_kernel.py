"""The daemon's requests to the kernel about its own mount."""

import logging
import os
import shutil
import sys
from pathlib import Path

import pytest

from modelfs import proc
from modelfs.fs.host import kernel
from modelfs.fs.host.fsync_mapped import MOVED
from modelfs.fs.host.kernel import (
    READ_AHEAD_KIB,
    device_of_mount,
    raise_read_ahead,
    sync_mapped_files,
)
from modelfs.store.index.tables import InodeNumber

MOUNTS = r"""21 1 252:0 / / rw - ext4 /dev/vda rw
35 21 0:48 / /mnt/my\040models rw - fuse.modelfs modelfs rw
36 21 0:49 / /mnt/my\040models rw - fuse.modelfs modelfs rw
37 21 0:50 / /mnt/other rw - fuse.modelfs modelfs rw
"""


@pytest.fixture
def read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the read-ahead, below `tmp_path`, since root may write the real one."""
    monkeypatch.setattr(kernel, "Path", lambda path: tmp_path / path.lstrip("/"))
    monkeypatch.setattr(proc, "PROC", tmp_path / "proc")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(MOUNTS)
    return tmp_path / "sys/class/bdi/0:49/read_ahead_kb"


def test_read_ahead(read_ahead: Path) -> None:
    """The read-ahead of the mount's device is raised: of the last mount at the mount point."""
    read_ahead.parent.mkdir(parents=True)
    raise_read_ahead(device_of_mount(Path("/mnt/my models")))
    assert read_ahead.read_text() == str(READ_AHEAD_KIB)


def test_read_ahead_that_is_not_allowed(read_ahead: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without permission the log has the command for root."""
    caplog.set_level(logging.INFO, logger="modelfs")
    raise_read_ahead(os.makedev(0, 49))
    assert f"echo {READ_AHEAD_KIB} > {read_ahead}" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_no_mount(read_ahead: Path) -> None:
    """A path at which nothing is mounted has no device."""
    with pytest.raises(OSError, match="is not in the mount table"):
        device_of_mount(Path("/mnt"))


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs setpriv")
def test_sync_mapped_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that moved and files that cannot be opened are returned, for names of any bytes."""
    (tmp_path / "a b").touch()
    (tmp_path / "link \udcff").symlink_to(".")
    here = InodeNumber((tmp_path / "a b").stat().st_ino)
    paths = {here: b"/a b", InodeNumber(1): b"/gone \xff\n", InodeNumber(2): b"/link \xff"}
    # Without the right to open handles, as of a user's daemon.
    command = "exec setpriv --inh-caps=-all --bounding-set=-dac_read_search"
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\n{command} {sys.executable} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    problems = sync_mapped_files(tmp_path, tmp_path.stat().st_dev, paths)
    assert problems[InodeNumber(1)] == MOVED
    assert problems.keys() == {1, 2}


def test_a_hidden_mount_point(tmp_path: Path) -> None:
    """If another file system is at the mount point, no file is synced, with the reason."""
    device = tmp_path.stat().st_dev + 1
    problems = sync_mapped_files(tmp_path, device, {InodeNumber(1): b"/f"})
    assert problems == {1: "another mount hides it"}


def test_a_helper_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the helper program cannot run, no file is synced, with the reason."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    problems = sync_mapped_files(tmp_path, 1, {InodeNumber(1): b"/f", InodeNumber(2): b"/g"})
    assert problems.keys() == {1, 2}
    assert "cannot be started: No such file or directory" in problems[InodeNumber(1)]


def test_no_mapped_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a file that is open for writing, no process is started."""
    monkeypatch.setattr(kernel, "subprocess", None)
    assert sync_mapped_files(tmp_path, 1, {}) == {}
