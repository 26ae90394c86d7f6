"""Descriptors in a list are closed once, whenever they came into it."""

import errno
import os
from pathlib import Path

import pytest

from modelfs.store.disk.closer import closer


def test_each_is_closed_once(tmp_path: Path) -> None:
    """A second call closes no other file that has got the number meanwhile."""
    opened: list[int] = []
    close = closer(opened)
    opened.extend(map(os.open, [tmp_path] * 2, [os.O_RDONLY] * 2))
    close()
    for fd in opened:
        with pytest.raises(OSError, match=f"Errno {errno.EBADF}"):
            os.fstat(fd)
    other = os.open(tmp_path, os.O_RDONLY)
    assert other in opened
    close()
    os.close(other)  # it is still open
