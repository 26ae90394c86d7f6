"""Random changes of files' content, on a mount and on the disk beside it."""

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final

import pytest

from modelfs.fs.requests.allocator import ZERO_RANGE
from modelfs.store.disk.allocation import KEEP_SIZE, PUNCH_HOLE
from tests.support.file_data import data_of
from tests.support.mounts import (
    OPTIONS,
    Mount,
    drop_kernel_caches,
    mounted,
    with_passthrough,
    with_session_io,
)
from tests.support.stores import noise
from tests.support.syscalls import fallocate

pytestmark = [pytest.mark.mount, with_session_io]

NAMES: Final = ("a", "b", "c")
STEPS: Final = 150
# Bytes. The longest files have some chunks of 1 MiB.
SIZE_MAX: Final = 4 << 20
MODES: Final = (
    0,
    KEEP_SIZE,
    PUNCH_HOLE | KEEP_SIZE,
    PUNCH_HOLE | KEEP_SIZE,
    ZERO_RANGE,
    ZERO_RANGE | KEEP_SIZE,
)


class Folders:
    """Two folders, in which the same is done."""

    def __init__(self, seed: int, unit: int, *folders: Path) -> None:
        """Begin with empty files; all offsets and sizes are multiples of `unit`."""
        self.random = Random(seed)
        self.unit = unit
        self.folders = folders
        for folder in folders:
            for name in NAMES:
                (folder / name).touch()

    def offset(self, least: int = 0) -> int:
        """Choose a place: near a boundary of chunks, or anywhere."""
        near = self.random.randrange(5) << 20
        anywhere = self.random.randrange(SIZE_MAX)
        place = self.random.choice((near - 4096, near, near + 4096, anywhere, anywhere))
        return max(least, place // self.unit * self.unit)

    def size(self) -> int:
        return max(1, self.random.choice((1, 5, 33, 300))) * max(self.unit, 4096 // 7)

    @contextmanager
    def opened(self, name: str) -> Iterator[list[int]]:
        fds = [os.open(folder / name, os.O_RDWR) for folder in self.folders]
        try:
            yield fds
        finally:
            for fd in fds:
                os.close(fd)

    def change(self) -> None:
        """Change the content of a file."""
        name = self.random.choice(NAMES)
        if self.random.random() < 0.1:
            data = noise(self.size(), self.random.randrange(9))
            for folder in self.folders:
                (folder / name).write_bytes(data)
            return
        with self.opened(name) as fds:
            match self.random.randrange(11):
                case 0 | 1 | 2:
                    data, at = noise(self.size(), self.random.randrange(9)), self.offset()
                    for fd in fds:
                        assert os.pwrite(fd, data, at) == len(data)
                case 3:
                    size = self.offset()
                    for fd in fds:
                        os.ftruncate(fd, size)
                case 4:
                    self._write_mapped(fds)
                case 5 | 6 | 7:
                    self._copy(name, fds)
                case _:
                    mode, at, size = self.random.choice(MODES), self.offset(), self.size()
                    for fd in fds:
                        fallocate(fd, mode, at, size)

    def _copy(self, name: str, targets: list[int]) -> None:
        """Copy a range of any file, or of the same, to any place."""
        source, start, at = self.random.choice(NAMES), self.offset(), self.offset()
        size = self.random.choice((self.size(), self.size(), 3 << 20)) // self.unit * self.unit
        with self.opened(source) as fds:
            size = min(size, os.fstat(fds[0]).st_size - start)
            if name == source and start < at + size and at < start + size:
                for fd, target in zip(fds, targets, strict=True):
                    with pytest.raises(OSError, match=rf"\[Errno {errno.EINVAL}\]"):
                        os.copy_file_range(fd, target, size, start, at)
            elif size > 0:
                if self.unit < 4096:
                    copy(fds[0], targets[0], start, size, at)
                else:
                    copy_sparse(self.folders[0] / source, targets[0], start, size, at)
                copy(fds[1], targets[1], start, size, at)

    def _write_mapped(self, fds: list[int]) -> None:
        size = os.fstat(fds[0]).st_size
        start = self.offset()
        stop = min(size, start + self.size())
        if start < stop:
            for fd in fds:
                with mmap.mmap(fd, size) as pages:
                    pages[start:stop] = noise(stop - start, 3)

    def check(self) -> None:
        """Assert that the files are equal; if all is in whole blocks, so are their holes."""
        for name in NAMES:
            plain, mounted = (folder / name for folder in self.folders)
            # The kernel's own copies into files that it writes itself fill holes.
            if self.unit >= 4096 and "--passthrough" not in OPTIONS:
                forget_pages(plain)
                assert data_of(mounted) == data_of(plain), name
            assert mounted.read_bytes() == plain.read_bytes(), name
            assert mounted.stat().st_size == plain.stat().st_size


def copy(source: int, target: int, start: int, size: int, at: int) -> None:
    while size > 0:
        copied = os.copy_file_range(source, target, size, start, at)
        assert copied > 0
        start, at, size = start + copied, at + copied, size - copied


def copy_sparse(source: Path, target: int, start: int, size: int, at: int) -> None:
    """Copy a range with its holes, of which the disk's own copy makes data."""
    forget_pages(source)
    data = [
        (max(low, start), min(high, start + size))
        for low, high in data_of(source)
        if low < start + size and high > start
    ]
    content = source.read_bytes()
    if os.fstat(target).st_size < at + size:
        os.ftruncate(target, at + size)
    fallocate(target, PUNCH_HOLE | KEEP_SIZE, at, size)
    for low, high in data:
        os.pwrite(target, content[low:high], at + low - start)


def forget_pages(path: Path) -> None:
    """Drop the pages of a file: in ext4, a page that was read is data, if blocks are allocated."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("unit", [1, 4096])
def test_random_changes(mount: Mount, tmp_path: Path, seed: int, unit: int) -> None:
    """Files on the mount have the bytes of those on the disk, and the same holes."""
    compare(mount, tmp_path, seed, unit)


@with_passthrough[0]
@with_passthrough[1]
@pytest.mark.usefixtures("fuse")
@pytest.mark.parametrize("seed", range(3))
def test_random_changes_with_passthrough(store: Path, tmp_path: Path, seed: int) -> None:
    """So have files that the kernel itself reads and writes, until they are in chunks."""
    with mounted(store, tmp_path / "mnt", "--passthrough") as mount:
        compare(mount, tmp_path, seed, 1)


def compare(mount: Mount, tmp_path: Path, seed: int, unit: int) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    folders = Folders(seed, unit, plain, mount.path)
    for step in range(STEPS):
        folders.change()
        match folders.random.randrange(12):
            case 0:
                mount.sync()
            case 1:
                drop_kernel_caches()
        if step % 10 == 9:
            folders.check()
        if step % 75 == 74:
            mount.remount(drop_caches=True)
    folders.check()
    mount.sync()
    drop_kernel_caches()
    folders.check()
