"""The disk space of a folder, counted as du(1) does, and bounded between counts."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.store.disk.usage import Usage, disk_usage

MB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file in it, and one in a folder below."""
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    for name in ("file", "below/file"):
        (folder / name).write_bytes(os.urandom(MB))
    return folder


def test_as_du(folder: Path) -> None:
    """The space is that of du(1); a link counts itself, and not its target."""
    (folder / "link").symlink_to("below")
    output = subprocess.check_output(["du", "-s", "--block-size=1", folder], timeout=10)
    assert disk_usage(folder) == int(output.split()[0]) > 2 * MB


def test_by_a_link_to_the_folder(folder: Path, tmp_path: Path) -> None:
    """The folder itself may be a link, as that to an open descriptor is."""
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert disk_usage(link) == disk_usage(folder)


def test_a_folder_of_another_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that may not be read counts as an empty one."""
    scandir, files = os.scandir, disk_usage(folder / "below") - disk_usage_of_empty(folder)

    def refuse(path: str) -> "Iterator[os.DirEntry[str]]":
        if path.endswith("below"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    before = disk_usage(folder)
    monkeypatch.setattr(os, "scandir", refuse)
    assert disk_usage(folder) == before - files


def disk_usage_of_empty(above: Path) -> int:
    """Return the space of an empty folder on the same disk."""
    (above.parent / "empty").mkdir()
    return disk_usage(above.parent / "empty")


def test_promised_bytes_count_at_once(folder: Path) -> None:
    """The bound has promised bytes before they are written, and after, until the next count."""
    usage = Usage(folder)
    usage.count()
    before = usage.bytes
    usage.promise(MB)
    assert usage.bytes == before + MB
    usage.count()
    assert (usage.bytes, usage.coming) == (before + MB, MB)
    usage.arrive(MB, 0)
    usage.count()
    assert (usage.bytes, usage.coming) == (before, 0)
