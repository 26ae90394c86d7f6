"""Space: writers leave the reserve, ingest and gc leave the floor."""

import os
from pathlib import Path

import pytest

from modelfs.errors import StoreFull
from modelfs.store.disk import space as space_module
from modelfs.store.disk.space import Space
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.run_jobs import collect, ingest_all
from tests.support.stores import CHUNK, content_of, new_file, noise

MB = 1 << 20


class Disk:
    """Stands for statvfs(2)."""

    def __init__(self, total: int, free: int) -> None:
        self.total = total
        self.free = free
        self._real = os.statvfs

    def statvfs(self, path: Path) -> os.statvfs_result:
        values = list(self._real(path))
        values[1] = 4096  # f_frsize
        values[2], values[3], values[4] = self.total // 4096, self.free // 4096, self.free // 4096
        return os.statvfs_result(values)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk of 1,000 MiB, of which 100 MiB are free."""
    disk = Disk(1000 * MB, 100 * MB)
    monkeypatch.setattr(os, "statvfs", disk.statvfs)
    return disk


@pytest.mark.parametrize(
    ("total", "reserve"),
    [(40 * MB, 10 * MB), (200 * MB, 24 * MB), (1000 * MB, 50 * MB), (10**13, 256 * MB)],
)
def test_the_reserve_fits_the_disk(disk: Disk, tmp_path: Path, total: int, reserve: int) -> None:
    """The reserve is 5 % of the disk, more of small disks, less of large ones."""
    disk.total = total
    assert Space(tmp_path).reserve_bytes == reserve


def test_writers_leave_the_reserve(disk: Disk, tmp_path: Path) -> None:
    """Writers get the space above the reserve; grants count before the bytes are written."""
    space = Space(tmp_path)
    assert space.room().free == 50 * MB
    for _ in range(3):
        space.reserve(16 * MB)
        disk.free -= 16 * MB
    space.reserve(2 * MB)
    disk.free -= 2 * MB
    with pytest.raises(StoreFull):
        space.reserve(1)


def test_ingest_and_gc_leave_the_floor(disk: Disk, tmp_path: Path) -> None:
    """Ingest and gc may use most of the reserve, and leave the floor to the index."""
    disk.free = 50 * MB
    space = Space(tmp_path)
    with pytest.raises(StoreFull):
        space.reserve(1)
    space.spend(40 * MB)
    with pytest.raises(StoreFull):
        space.spend(45 * MB)


def test_a_limit_bounds_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers stop at the limit, and go on when the store is smaller; gc ignores it."""
    monkeypatch.setattr(space_module, "FRESH_SECONDS", -1.0)
    space = Space(tmp_path, 10 * MB)
    assert space.room().total == 10 * MB
    file = tmp_path / "f"
    space.reserve(9 * MB)
    file.write_bytes(b"x" * 9 * MB)
    with pytest.raises(StoreFull, match="limit"):
        space.reserve(2 * MB)
    assert space.room().free < 2 * MB
    space.spend(100 * MB)
    file.unlink()
    space.reserve(8 * MB)


def test_ingest_without_space_writes_nothing(opened: Store, disk: Disk) -> None:
    """Ingest without space writes nothing, and everything when there is space."""
    inode = new_file(opened, b"f", noise(4 * CHUNK))
    disk.free = 6 * MB
    with pytest.raises(StoreFull):
        ingest_all(opened)
    assert opened.packs.numbers() == set()
    assert content_of(opened, inode) == noise(4 * CHUNK)
    disk.free = 100 * MB
    ingest_all(opened)
    assert opened.pending() == []


def test_dead_packs_need_no_room(opened: Store, disk: Disk) -> None:
    """A pack without a live chunk is deleted from a disk without a free byte."""
    inode = new_file(opened, b"f", noise(4 * CHUNK))
    ingest_all(opened)
    disk.free = 0
    opened.namespace.unlink(ROOT, b"f")
    assert collect(opened) > 4 * CHUNK
    assert opened.inodes.find(inode) is None
    assert opened.packs.numbers() == set()
