"""The daemon's requests to the kernel about its own mount."""

import logging
import os
from pathlib import Path

import pytest

from modelfs.fs.host import kernel, mount_table
from modelfs.fs.host.fsync_mapped import MOVED
from modelfs.fs.host.kernel import READ_AHEAD_KIB, raise_read_ahead, sync_mapped_files
from modelfs.fs.host.mount_table import MountEntry
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
    monkeypatch.setattr(mount_table, "PROC", tmp_path / "proc")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(MOUNTS)
    return tmp_path / "sys/class/bdi/0:49/read_ahead_kb"


def test_read_ahead(read_ahead: Path) -> None:
    """The read-ahead of the mount's device is raised: of the last mount at the mount point."""
    read_ahead.parent.mkdir(parents=True)
    raise_read_ahead(Path("/mnt/my models"))
    assert read_ahead.read_text() == str(READ_AHEAD_KIB)


def test_read_ahead_that_is_not_allowed(read_ahead: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without permission the log has the command for root."""
    caplog.set_level(logging.INFO, logger="modelfs")
    raise_read_ahead(Path("/mnt/my models"))
    assert f"echo {READ_AHEAD_KIB} > {read_ahead}" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.INFO]


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the mount point."""
    status = tmp_path.stat().st_dev
    entry = MountEntry(tmp_path, f"{os.major(status)}:{os.minor(status)}", "fuse.modelfs")
    monkeypatch.setattr(kernel, "mounted_at", lambda path: entry)
    return tmp_path


def test_sync_mapped_files(mount: Path) -> None:
    """Files that moved and files that cannot be opened are returned, for names of any bytes."""
    (mount / "a b").touch()
    (mount / "link \udcff").symlink_to(".")
    here = InodeNumber((mount / "a b").stat().st_ino)
    paths = {here: b"/a b", InodeNumber(1): b"/gone \xff\n", InodeNumber(2): b"/link \xff"}
    problems = sync_mapped_files(mount, paths)
    assert problems[InodeNumber(1)] == MOVED
    assert problems.keys() == {1, 2}


def test_a_hidden_mount_point(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another file system is at the mount point, no file is synced, with the reason."""
    entry = MountEntry(mount, "0:999", "fuse.modelfs")
    monkeypatch.setattr(kernel, "mounted_at", lambda path: entry)
    assert sync_mapped_files(mount, {InodeNumber(1): b"/f"}) == {1: "another mount hides it"}
    monkeypatch.setattr(kernel, "mounted_at", lambda path: None)
    assert "not visible" in sync_mapped_files(mount, {InodeNumber(1): b"/f"})[InodeNumber(1)]


def test_no_mapped_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a file that is open for writing, no process is started."""
    monkeypatch.setattr(kernel, "subprocess", None)
    assert sync_mapped_files(tmp_path, {}) == {}
