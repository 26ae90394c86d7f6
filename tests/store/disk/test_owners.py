"""Owners that a file system makes up, and files that root makes for another user."""

import ctypes
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from modelfs import proc
from modelfs.errors import NotPermitted
from modelfs.store.disk import allocation
from modelfs.store.disk.allocation import FUSE
from modelfs.store.disk.owners import NOBODY, as_user, user_behind
from tests.support.users import ALICE, BOB, user

MOUNTS: Final = """\
22 1 8:1 / / rw,noatime shared:1 - ext4 /dev/sda1 rw,user_id=1000
31 22 0:41 / /mnt\\040{name} rw,nosuid shared:7 master:2 - {end}
"""


@pytest.mark.parametrize(
    ("end", "user"),
    [
        ("ext4 /dev/sdb1 rw,errors=remount-ro", None),
        ("nfs4 host:/ rw,user_id=1000", None),
        ("fusectl fusectl rw", None),
        ("virtiofs share rw", None),
        ("fuse program rw,user_id=1000,group_id=1000", 1000),
        ("fuse.modelfs user_id=0 rw,user_id=1000,group_id=0,allow_other", 1000),
        ("fuseblk /dev/sdb1 ro,user_id=1000", 1000),
        ("fuse.sshfs,user_id=0 host: rw,relatime,user_id=1000", 1000),
        ("fuse.sshfs host: rw", NOBODY),
        ("fuse.sshfs host: rw,user_id=0", None),
        ("fuse.sshfs host: rw,user_id=4242", None),
    ],
)
def test_who_makes_up_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, user: int | None
) -> None:
    """It is the user of a FUSE mount, unless that is root or this process's."""
    process = tmp_path / "self"
    (process / "fdinfo").mkdir(parents=True)
    (process / "fdinfo" / "5").write_text("pos:\t0\nflags:\t012200000\nmnt_id:\t31\nino:\t2\n")
    (process / "mountinfo").write_text(MOUNTS.format(name="x\f31", end=end))
    monkeypatch.setattr(proc, "PROC", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert user_behind(5) == user


@pytest.mark.parametrize(("kind", "user"), [(0xEF53, None), (FUSE, NOBODY), (None, NOBODY)])
def test_a_mount_that_the_table_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int | None, user: int | None
) -> None:
    """The owners of a FUSE mount, or of one that does not answer, do not count."""

    class Libc:
        def fstatfs(self, fd: int, buffer: "ctypes.Array[ctypes.c_char]") -> int:
            buffer.raw = (kind or 0).to_bytes(8, sys.byteorder) + buffer.raw[8:]
            return -1 if kind is None else 0

    process = tmp_path / "self"
    (process / "fdinfo").mkdir(parents=True)
    (process / "fdinfo" / "5").write_text("mnt_id:\t99\n")
    (tmp_path / "self" / "mountinfo").write_text(
        MOUNTS.format(name="", end="fuse x rw,user_id=1000")
    )
    monkeypatch.setattr(proc, "PROC", tmp_path)
    monkeypatch.setattr(allocation, "_libc", Libc())
    assert user_behind(5) == user


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_as_user() -> None:
    """Files of the block are that user's, those of other threads and after an error are not."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o777)

        def make_twice() -> None:
            with as_user(ALICE.uid):
                (top / "hers").touch()
                other.submit((top / "other").touch).result()
                (top / "hers").touch(exist_ok=False)

        with ThreadPoolExecutor(1) as other:
            other.submit(os.getpid).result()  # it runs: a new thread is as the one that starts it
            with pytest.raises(FileExistsError):
                make_twice()
        (top / "after").touch()
        owners = {path.name: path.stat().st_uid for path in top.iterdir()}
        assert owners == {"hers": ALICE.uid, "other": 0, "after": 0}


def make_as_alice() -> str:
    try:
        with as_user(ALICE.uid):
            return "made"
    except NotPermitted as exc:
        return str(exc)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_as_user_without_the_right() -> None:
    """A process without CAP_SETUID gets an error that names it."""
    with user(BOB, Path("/"), __name__) as bob:
        assert "without CAP_SETUID" in str(bob(make_as_alice))
