"""fsync(2) of files with pages that programs have mapped."""

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelfs.fs.host import fsync_mapped


def run(
    monkeypatch: pytest.MonkeyPatch, mount: Path, files: list[tuple[int, str]], device: int = 0
) -> None:
    lines = [b"%d /%s\0" % (inode, os.fsencode(path)) for inode, path in files]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"".join(lines))))
    monkeypatch.setattr(sys, "argv", ["", str(mount), str(device or mount.stat().st_dev)])
    fsync_mapped.main()


def failing(number: int) -> Callable[[int, int], int]:
    """Return a stand-in for `open_handle` that raises an error."""

    def open_handle(mount: int, inode: int) -> int:
        raise OSError(number, os.strerror(number))

    return open_handle


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were synced."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    return synced


def test_files_are_synced_by_path(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    synced: list[str],
) -> None:
    """Without the right to use handles, every file is opened by its path; others do not matter."""
    monkeypatch.setattr(fsync_mapped, "open_handle", failing(errno.EPERM))
    files = []
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
        files.append(((tmp_path / name).stat().st_ino + (name == "c"), name))
    (tmp_path / "link").symlink_to(".")  # as O_NOFOLLOW refuses
    run(monkeypatch, tmp_path, [*files, (1, "gone"), (2, "a/gone"), (3, "link")])
    assert synced == [str(tmp_path / name) for name in ("a", "b", "c")]
    problems = capsys.readouterr().out.splitlines()
    assert problems[:3] == [f"{files[2][0]} moved", "1 moved", "2 moved"]
    assert problems[3].startswith("3 ")


def test_an_inode_without_pages_is_passed_over(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    synced: list[str],
) -> None:
    """The kernel does not have the inode, so it has no pages of it."""
    monkeypatch.setattr(fsync_mapped, "open_handle", failing(errno.ESTALE))
    run(monkeypatch, tmp_path, [(5, "f")])
    assert (synced, capsys.readouterr().out) == ([], "")


def test_another_mount_at_the_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of another file system are not synced in place of the mount's."""
    with pytest.raises(SystemExit, match="hides"):
        run(monkeypatch, tmp_path, [(5, "f")], device=1)
