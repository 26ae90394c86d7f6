"""New files of a store may be read by those who may read the folder."""

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from modelfs.store.disk.directory import Directory
from modelfs.store.disk.read_access import ACL
from tests.support.users import ALICE, TEAM

GROUP: Final = 4000
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture(autouse=True, params=[0, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Any umask, since the modes do not depend on it."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def made(folder: Path, flags: int, *, trust: bool = False) -> tuple[int, int, int]:
    """Make a file in a folder; return its mode, user and group."""
    os.close(Directory(folder, trust=trust).open("new", os.O_RDWR | os.O_CREAT | flags))
    status = (folder / "new").stat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


@pytest.mark.parametrize("flags", [0, os.O_EXCL])
@pytest.mark.parametrize(
    ("folder", "file"),
    [
        (0o700, 0o600),
        (0o755, 0o644),
        (0o750, 0o640),
        (0o705, 0o604),
        (0o711, 0o600),  # others may search it, and not list it
        (0o744, 0o600),
    ],
)
def test_those_who_may_read_the_folder(tmp_path: Path, folder: int, file: int, flags: int) -> None:
    """The mode of a new file follows that of its folder."""
    tmp_path.chmod(folder)
    assert made(tmp_path, flags)[0] == file


def test_a_file_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    """The owner may keep a single file to himself."""
    (tmp_path / "new").touch()
    (tmp_path / "new").chmod(0o600)
    tmp_path.chmod(0o755)
    assert made(tmp_path, 0)[0] == 0o600
    with pytest.raises(FileExistsError):
        made(tmp_path, os.O_EXCL)


@only_root
def test_the_group_is_that_of_the_folder(tmp_path: Path) -> None:
    """It reads the file, and the group of the process does not; no setgid is needed."""
    os.chown(tmp_path, -1, GROUP)
    tmp_path.chmod(0o750)
    assert made(tmp_path, 0) == (0o640, 0, GROUP)


@only_root
def test_a_group_that_cannot_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another group gets the permission of others."""

    def refuse(*_: int) -> None:
        raise PermissionError

    os.chown(tmp_path, -1, GROUP)
    tmp_path.chmod(0o755)
    monkeypatch.setattr(os, "fchown", refuse)
    assert made(tmp_path, 0) == (0o644, 0, os.getegid())
    (tmp_path / "new").unlink()
    tmp_path.chmod(0o750)
    assert made(tmp_path, 0) == (0o600, 0, os.getegid())


@only_root
def test_in_a_folder_of_another_user(tmp_path: Path) -> None:
    """A file that root makes with trust is the owner's, and his readers read it."""
    os.chown(tmp_path, ALICE.uid, TEAM)
    tmp_path.chmod(0o750)
    assert made(tmp_path, os.O_EXCL, trust=True) == (0o640, ALICE.uid, TEAM)


@pytest.mark.parametrize("has_default", [False, True])
def test_a_list_of_users(tmp_path: Path, has_default: bool) -> None:
    """The users in a default list read a new file; the folder's group gets no more than it had."""
    # acl(5): version 2; u::rwx u:4001:r-x g::--- m::r-x o::---
    entries = [(1, 7, -1), (2, 5, ALICE.uid), (4, 0, -1), (16, 5, -1), (32, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, permission, user & 0xFFFFFFFF) for tag, permission, user in entries
    )
    tmp_path.chmod(0o700)
    try:
        os.setxattr(tmp_path, ACL, acl)
        if has_default:
            os.setxattr(tmp_path, "system.posix_acl_default", acl)
    except OSError as exc:
        pytest.skip(f"a file system without ACLs: {exc}")
    assert made(tmp_path, 0)[0] == (0o640 if has_default else 0o600)
    if has_default:
        kept = os.getxattr(tmp_path / "new", ACL)
        assert struct.unpack_from("<HHI", kept, 4 + 2 * 8)[1] == 0  # g::---
        assert struct.unpack_from("<HHI", kept, 4 + 3 * 8)[1] == 4  # the mask
