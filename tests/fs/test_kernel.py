"""What the daemon asks of the kernel."""

import logging
import os
from pathlib import Path

import pytest

from modelfs.fs import kernel
from modelfs.fs.kernel import READ_AHEAD_KIB, raise_read_ahead, send_dirty_pages
from modelfs.store.tables import InodeNumber


@pytest.fixture
def read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the kernel is told of the read-ahead; below `tmp_path`, since root may change it."""
    monkeypatch.setattr(kernel, "Path", lambda path: tmp_path / path.lstrip("/"))
    device = tmp_path.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    return tmp_path / "sys/class/bdi" / name / "read_ahead_kb"


def test_read_ahead(tmp_path: Path, read_ahead: Path) -> None:
    """The read-ahead of the mount's own device is raised."""
    read_ahead.parent.mkdir(parents=True)
    raise_read_ahead(tmp_path)
    assert read_ahead.read_text() == str(READ_AHEAD_KIB)


def test_read_ahead_that_is_not_allowed(
    tmp_path: Path, read_ahead: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who may not raise it goes on without, and the log has the line that root can use."""
    caplog.set_level(logging.INFO, logger="modelfs")
    raise_read_ahead(tmp_path)
    assert f"echo {READ_AHEAD_KIB} > {read_ahead}" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_dirty_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every file that is named is synced, and one that cannot be keeps none from it."""
    synced: list[str] = []
    monkeypatch.setattr(
        "modelfs.fs.kernel.os.fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}"))
    )
    (tmp_path / "sub").symlink_to(".")  # as O_NOFOLLOW refuses
    inodes = {}
    for name in ("a", "b"):
        (tmp_path / name).touch()
        inodes[name] = InodeNumber((tmp_path / name).stat().st_ino)
    paths = {inodes["a"]: b"/a", InodeNumber(1): b"/sub", inodes["b"]: b"/b"}
    assert send_dirty_pages(tmp_path, paths) == []
    assert synced == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert "/sub" in caplog.text
    caplog.clear()


def test_dirty_pages_of_what_was_renamed(tmp_path: Path) -> None:
    """Files that are gone from where they were, or have another in their place, are told."""
    (tmp_path / "other").touch()
    paths = {InodeNumber(1): b"/gone", InodeNumber(2): b"/other", InodeNumber(3): b"/other/gone"}
    assert send_dirty_pages(tmp_path, paths) == [1, 2, 3]
