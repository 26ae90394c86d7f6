"""The daemon's requests to the kernel about its own mount."""

import logging
from pathlib import Path

import pytest

from modelfs.fs.host import kernel, mount_table
from modelfs.fs.host.kernel import READ_AHEAD_KIB, raise_read_ahead, sync_mapped_files
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


def test_sync_mapped_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files that moved are returned, and failures are logged, for names of any bytes."""
    (tmp_path / "a b").touch()
    (tmp_path / "link \udcff").symlink_to(".")
    here = InodeNumber((tmp_path / "a b").stat().st_ino)
    paths = {here: b"/a b", InodeNumber(1): b"/gone \xff\n", InodeNumber(2): b"/link \xff"}
    assert sync_mapped_files(tmp_path, paths) == [1]
    [record] = caplog.records
    assert "/link" in record.getMessage()
    caplog.clear()


def test_no_mapped_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a file that is open for writing, no process is started."""
    monkeypatch.setattr(kernel, "subprocess", None)
    assert sync_mapped_files(tmp_path, {}) == []
