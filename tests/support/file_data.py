"""Data and holes of files, as lseek(2) finds them."""

import errno
import os
from pathlib import Path


def next_data(fd: int, offset: int) -> int | None:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
    return None


def data_of(path: Path) -> list[tuple[int, int]]:
    """Return the ranges of data of a file."""
    found: list[tuple[int, int]] = []
    fd = os.open(path, os.O_RDONLY)
    at = 0
    try:
        while at < (size := os.fstat(fd).st_size):
            if (start := next_data(fd, at)) is None:
                break
            at = os.lseek(fd, start, os.SEEK_HOLE)
            assert start < at <= size
            found.append((start, at))
    finally:
        os.close(fd)
    return found
