"""One line for each failure: the problem and the next step."""

import errno

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
