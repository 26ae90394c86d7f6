"""One line for each failure: the problem and the next step."""

import errno
import os
from pathlib import Path

import pytest

from modelfs.cli.failure import MAKE_ROOM, describe
from modelfs.errors import (
    CorruptIndex,
    IndexLost,
    LostBytes,
    ModelfsError,
    NoSlots,
    StoreBusy,
    StoreFull,
)


def of_a_file(cause: ModelfsError) -> OSError:
    """Return the error of a file, with its cause."""
    error = OSError(cause.errno, "cannot store /f")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StoreFull("no space left"), f"no space left; {MAKE_ROOM}"),
        (LostBytes("lost"), "lost; write these bytes again, truncate the file or remove it"),
        (CorruptIndex("a row"), "a row; check it with `modelfs fsck --data`, repair it"),
        (NoSlots("locked"), "locked; its owner can give that to your group, with chgrp and chmod"),
        (StoreBusy("locked"), "locked; end its other use first"),
        (IndexLost("gone"), "gone; restore the store from a backup"),
        (of_a_file(StoreFull()), f"cannot store /f; {MAKE_ROOM}"),
        (of_a_file(CorruptIndex("a row")), "cannot store /f; check it with `modelfs fsck --data`"),
        (OSError(errno.EROFS, "read-only", "f"), "f: read-only; its disk is mounted read-only"),
        (ValueError("x"), "bug: ValueError: x; set MODELFS_DEBUG=1"),
    ],
)
def test_a_failure_has_its_own_next_step(error: Exception, line: str) -> None:
    """The hint is that of the narrowest class, or of the errno."""
    assert describe(error).startswith(line)


@pytest.mark.parametrize(
    ("user", "advice"), [(1000, "try sudo"), (0, "not even root may use it here")]
)
def test_another_users_file_is_named(
    monkeypatch: pytest.MonkeyPatch, user: int, advice: str
) -> None:
    """A permission that is denied names the path, the owner, and a next step for this user."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    line = describe(PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/"))
    assert line == f"permission denied: / (owned by user 0; {advice})"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_a_file_in_ones_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be had by chown(1): root has restored it, for example."""
    (tmp_path / "pack").touch()
    os.chown(tmp_path, 1000, 1000)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    line = describe(PermissionError(errno.EACCES, os.strerror(errno.EACCES), tmp_path / "pack"))
    assert line.endswith(f"(owned by user 0; to make it yours: sudo chown 1000 {tmp_path}/pack)")
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    assert "try sudo" in describe(PermissionError(errno.EACCES, "", tmp_path / "pack"))
