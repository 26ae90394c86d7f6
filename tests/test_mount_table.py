"""The kernel's mount table."""

from pathlib import Path

import pytest

from modelfs import proc
from modelfs.mount_table import mount_point_of, mounted_at, mounted_elsewhere, mounts

TABLE = r"""21 1 252:0 / / rw shared:1 - ext4 /dev/vda rw
35 21 0:48 / /mnt/my\040models\134\011 rw - fuse.modelfs my\040models rw,user_id=1000,group_id=0
"""


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A /proc with two processes: 17, and 18 which has just ended."""
    monkeypatch.setattr(proc, "PROC", tmp_path)
    (tmp_path / "17").mkdir()
    (tmp_path / "17" / "mountinfo").write_text(TABLE)
    (tmp_path / "18").mkdir()


def test_own_table() -> None:
    """This process sees its mounts, and the mount that a path lies in."""
    entry = mounted_at(Path("/proc"))
    assert entry is not None
    assert entry.kind == "proc"
    assert mounted_at(Path("/proc/self")) is None
    assert mount_point_of(Path("/proc/self/fd")) in {entry.path for entry in mounts()}


@pytest.mark.usefixtures("processes")
def test_fields() -> None:
    """Paths, devices, types and users are read, and escapes in paths are replaced."""
    fields = [(str(entry.path), entry.device, entry.kind, entry.user) for entry in mounts("17")]
    assert fields == [
        ("/", "252:0", "ext4", None),
        ("/mnt/my models\\\t", "0:48", "fuse.modelfs", 1000),
    ]


def test_names_with_line_separators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a form feed, a carriage return or U+2028, which the kernel does not escape."""
    monkeypatch.setattr(proc, "PROC", tmp_path)
    (tmp_path / "17").mkdir()
    table = "35 21 0:48 / /mnt/a\fb\u2028c\rd rw - fuse.modelfs modelfs rw\n"
    (tmp_path / "17" / "mountinfo").write_bytes(table.encode())
    assert [str(entry.path) for entry in mounts("17")] == ["/mnt/a\fb\u2028c\rd"]


def test_lines_of_another_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options with spaces, as 9p has on WSL 2, are read; a line that is no mount is left out."""
    monkeypatch.setattr(proc, "PROC", tmp_path)
    (tmp_path / "17").mkdir()
    options = r"rw,aname=drivers;path=C:\Program Files\Docker;symlinkroot=/mnt/"
    table = f"560 77 0:62 / /Docker/host rw - 9p drivers {options}\nodd\n561 77 0:63 / /x\n{TABLE}"
    (tmp_path / "17" / "mountinfo").write_text(table)
    assert [str(entry.path) for entry in mounts(17)][:2] == ["/Docker/host", "/"]
    assert mounts(17)[0].options == options


@pytest.mark.usefixtures("processes")
def test_mounted_elsewhere() -> None:
    """A modelfs mount is found in another process by its device; other mounts are not."""
    assert mounted_elsewhere("0:48") == (17, Path("/mnt/my models\\\t"))
    assert mounted_elsewhere("252:0") is None
    assert mounted_elsewhere("0:49") is None
