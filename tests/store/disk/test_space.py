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
from tests.support.stores import CHUNK, content_of, new_file, noise, pending_files

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
    for size in (16 * MB, 16 * MB, 16 * MB, 2 * MB):
        space.reserve(size)
        disk.free -= size
        space.arrive(size)
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


def test_staged_bytes_need_room_as_chunks(disk: Disk, tmp_path: Path) -> None:
    """Writers stop while all that is staged has room for a copy: ingest never finds none."""
    space, staged = Space(tmp_path), 0
    space.consider(lambda: staged, lambda: 0)
    floor = space.reserve_bytes // 8
    while space.writable_bytes() >= MB:
        space.reserve(MB)
        disk.free -= MB
        staged += MB
        space.arrive(MB)
    assert 42 * MB < staged < (100 * MB - floor) // 2
    with pytest.raises(StoreFull):
        space.reserve(MB)
    space.spend(staged + staged // 100)


def test_a_limit_bounds_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers stop before the limit, and go on when the store is smaller; gc stops there, too."""
    monkeypatch.setattr(space_module, "FRESH_SECONDS", -1.0)
    space = Space(tmp_path, 100 * MB)
    assert space.room().total == 100 * MB
    file = tmp_path / "f"
    space.reserve(40 * MB)
    file.write_bytes(b"x" * 70 * MB)
    space.arrive(40 * MB, 70 * MB)
    with pytest.raises(StoreFull, match="limit"):
        space.reserve(10 * MB)
    assert 5 * MB < space.room().free < 7 * MB
    space.spend(20 * MB)
    with pytest.raises(StoreFull, match="limit"):
        space.spend(5 * MB)
    space.arrive(20 * MB, 0)
    file.unlink()
    space.reserve(40 * MB)


def test_bytes_under_way_count(tmp_path: Path) -> None:
    """A count in the middle of a write does not forget the bytes that are still to come."""
    space = Space(tmp_path, 100 * MB)
    before = space.working_bytes
    space.spend(20 * MB)
    space.measure()
    assert space.working_bytes == before - 20 * MB
    (tmp_path / "f").write_bytes(b"x" * 20 * MB)
    space.arrive(20 * MB)
    assert space.working_bytes <= before - 20 * MB
    space.measure()
    assert space.working_bytes == before - 20 * MB


def test_changes_in_memory_count(tmp_path: Path) -> None:
    """Changes of the index that wait for a commit, and its file, count before the next count."""
    index = tmp_path / "data.mdb"
    space, uncommitted = Space(tmp_path, 100 * MB, index_file=index), 0
    space.consider(lambda: 0, lambda: uncommitted)
    before = space.working_bytes
    uncommitted = 3 * MB
    assert space.working_bytes == before - 6 * MB
    index.write_bytes(b"x" * 5 * MB)
    uncommitted = 0
    assert space.working_bytes == before - 5 * MB


def test_a_store_above_its_limit_can_shrink(tmp_path: Path) -> None:
    """In a store larger than its limit, writers have no room, and gc has that of a reserve."""
    file = tmp_path / "f"
    file.write_bytes(b"x" * 120 * MB)
    space = Space(tmp_path, 100 * MB)
    with pytest.raises(StoreFull):
        space.reserve(1)
    space.spend(10 * MB)
    space.arrive(10 * MB, 0)
    os.truncate(file, 90 * MB)
    space.measure()
    with pytest.raises(StoreFull):
        space.spend(10 * MB)


def test_the_reserve_is_lent(disk: Disk, tmp_path: Path) -> None:
    """A writer may borrow of the reserve, as long as no more is staged than it may."""
    space, staged = Space(tmp_path), 0
    space.consider(lambda: staged, lambda: 0)
    disk.free = 40 * MB
    with pytest.raises(StoreFull):
        space.reserve(MB)
    space.borrow(4 * MB, 5 * MB)
    staged += 4 * MB
    space.arrive(4 * MB)
    with pytest.raises(StoreFull):
        space.borrow(2 * MB, 5 * MB)
    with pytest.raises(StoreFull):
        space.borrow(20 * MB, 100 * MB)


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
    assert pending_files(opened) == []


def test_dead_packs_need_no_room(opened: Store, disk: Disk) -> None:
    """A pack without a live chunk is deleted from a disk without a free byte."""
    inode = new_file(opened, b"f", noise(4 * CHUNK))
    ingest_all(opened)
    disk.free = 0
    opened.namespace.unlink(ROOT, b"f")
    assert collect(opened) > 4 * CHUNK
    assert opened.inodes.find(inode) is None
    assert opened.packs.numbers() == set()
