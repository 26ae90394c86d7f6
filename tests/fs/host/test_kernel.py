"""The daemon's requests to the kernel about its own mount."""

import io
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelfs.fs.host import fsync_mapped, kernel, mount_table
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


def test_fsync_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every file is synced; one that moved, or whose fsync fails, does not stop the others."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    lines = []
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
        inode = (tmp_path / name).stat().st_ino
        lines.append(b"%d %s" % (inode + (name == "c"), os.fsencode(tmp_path / name)))
    (tmp_path / "link").symlink_to(".")  # as O_NOFOLLOW refuses
    lines += [b"%d %s" % (1, os.fsencode(tmp_path / name)) for name in ("gone", "a/gone", "link")]
    asked = SimpleNamespace(buffer=io.BytesIO(b"".join(line + b"\0" for line in lines)))
    monkeypatch.setattr(sys, "stdin", asked)
    fsync_mapped.main()
    assert synced == [str(tmp_path / name) for name in ("a", "b", "c")]
    out, err = capsys.readouterr()
    assert out.split() == [str((tmp_path / "c").stat().st_ino + 1), "1", "1"]
    assert "link: " in err


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
