"""Sparse files: which of their bytes were ever written."""

import errno
import os
from collections.abc import Iterator


def data_ranges(fd: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the parts of a file from `start` on that were ever written, in blocks of its disk.

    The last one may end behind the end of the file.

    Raises:
        OSError: the disk failed.
    """
    while True:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # no data from there on
                return
            raise
        stop = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, stop
        start = stop
