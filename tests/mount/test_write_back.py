"""Staging files on a disk that the kernel fails to write back to."""

import errno
import os
import random
from pathlib import Path

import pytest

from modelfs.errors import LostBytes
from modelfs.store.disk.descriptors import Descriptors, read_at, write_at
from modelfs.store.disk.directory import Directory
from modelfs.store.files.window_file import WindowFile
from tests.support.loop_disks import thin_disk

pytestmark = pytest.mark.mount

MB = 1 << 20


def test_bytes_that_a_thin_disk_cannot_keep_are_lost(tmp_path: Path) -> None:
    """A real failure of the kernel is noticed by a read, and by the next sync."""
    with thin_disk(tmp_path, 128 * MB, 24 * MB) as path:
        files = Descriptors(Directory(path), os.O_RDWR)
        window = WindowFile(files, "7-0-1", {})
        file = window.descriptor(create=True)
        data = random.Random(1).randbytes(40 * MB)
        failures = window.begin_write(file)
        write_at(file, 0, [data])
        window.end_write(0, len(data), len(data), failures)
        os.sync()  # as the kernel does by itself some seconds later
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert read_at(file, 0, len(data)) != data
        with pytest.raises(LostBytes):
            window.check(file, 0, 100)
        window.sync()
        assert window.error in (errno.EIO, errno.ENOSPC)
        assert list(window.lost()) == [(0, len(data))]
        del file
        files.clear()
