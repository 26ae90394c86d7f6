"""Space: writers leave the reserve, ingest and gc leave the floor."""

import errno
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from modelfs.errors import StoreFull
from modelfs.jobs.gc.collector import LIVE_MIN_SMALL
from modelfs.store import store as store_module
from modelfs.store.disk import allocation, ballast
from modelfs.store.disk import space as space_module
from modelfs.store.disk.descriptors import write_at
from modelfs.store.disk.reserve import COPY_TABLES, INGEST_MARGIN
from modelfs.store.disk.space import Space
from modelfs.store.disk.usage import Usage, disk_usage
from modelfs.store.index.tables import ROOT, PackId
from modelfs.store.packs import segment as segment_module
from modelfs.store.packs.cuts import Cut, DeferredCuts
from modelfs.store.sessions import begin_session
from modelfs.store.store import Store
from tests.support.run_jobs import collect, ingest_all
from tests.support.served_store import Failing
from tests.support.stores import CHUNK, Box, content_of, new_file, noise, pending_files

MB = 1 << 20


class Disk:
    """Stands for statvfs(2), and for the room that nameless files take."""

    def __init__(self, total: int, free: int) -> None:
        self.total = total
        self.free = free
        self.quota = total  # that is left, which statvfs does not show
        self.error = 0  # of nameless files
        self._real = os.statvfs

    def take(self, size: int) -> None:
        """Take room of the disk, or give some back."""
        if size > min(self.free, self.quota):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        self.free -= size
        self.quota -= size

    def nameless_file(self, folder: str, size: int) -> "NamelessFile":
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self.take(size)
        return NamelessFile(self, folder, size)

    def statvfs(self, path: Path) -> os.statvfs_result:
        values = list(self._real(path))
        values[1] = 4096  # f_frsize
        values[2], values[3], values[4] = self.total // 4096, self.free // 4096, self.free // 4096
        return os.statvfs_result(values)


class NamelessFile:
    """Stands for a file without a name, which takes room of a `Disk` until it is closed."""

    def __init__(self, disk: Disk, folder: str, size: int) -> None:
        self.size = size
        self.fd = os.open(folder, os.O_PATH)
        self._disk = disk

    def close(self) -> None:
        os.close(self.fd)
        self._disk.take(-self.size)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk of 1,000 MiB, of which 100 MiB are free."""
    disk = Disk(1000 * MB, 100 * MB)
    monkeypatch.setattr(os, "statvfs", disk.statvfs)
    monkeypatch.setattr(allocation, "NamelessFile", disk.nameless_file)
    monkeypatch.setattr(ballast, "arm", lambda fd: 0)
    return disk


@pytest.fixture
def begun(disk: Disk, tmp_path: Path) -> Iterator[Space]:
    """The space of a store that is open for writing on such a disk, with nothing staged."""
    space = Space(tmp_path, has_ballast=True)
    space.hold_ballast()
    yield space
    space.close()


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
    staged = 0
    space = Space(tmp_path, staged=lambda: staged, has_ballast=True)
    space.hold_ballast()
    floor = space.reserve_bytes // 8
    while space.writable_bytes() >= MB:
        space.reserve(MB)
        disk.free -= MB
        staged += MB
        space.arrive(MB)
    assert 41 * MB < staged < (100 * MB - floor) // 2
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
    space.measure()
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
    uncommitted = 0
    space = Space(tmp_path, 100 * MB, index_file=index, uncommitted=lambda: uncommitted)
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
    staged = 0
    space = Space(tmp_path, staged=lambda: staged, has_ballast=True)
    space.hold_ballast()
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


REFUSED = OSError(errno.EDQUOT, "Disk quota exceeded")
BALLAST = int(50 * MB / 8)  # of a disk of 1,000 MiB


def test_the_ballast_counts_as_free(disk: Disk, begun: Space, tmp_path: Path) -> None:
    """With a ballast all kinds of work have the same room as without."""
    assert disk.free == 100 * MB - BALLAST
    disk.free += BALLAST
    without = Space(tmp_path)
    expected = without.room().free, without.working_bytes, without.writable_bytes()
    disk.free -= BALLAST
    assert (begun.room().free, begun.working_bytes, begun.writable_bytes()) == expected


def test_a_refused_write_releases_the_ballast(disk: Disk, begun: Space) -> None:
    """After the disk refused a write, writers get nothing until the ballast is held again."""
    begun.reserve(MB)
    begun.arrive(MB)
    disk.quota = 0
    assert begun.release(REFUSED)
    assert disk.free == 100 * MB
    assert not begun.release(REFUSED)
    assert begun.room().free == 0
    assert begun.writable_bytes() <= 0
    with pytest.raises(StoreFull, match="quota"):
        begun.reserve(1)
    with pytest.raises(StoreFull, match="quota"):
        begun.borrow(1, MB)
    begun.measure()
    assert disk.quota == 0  # all of it is held
    begun.reserve(MB)
    begun.arrive(MB)


def test_a_quota_without_room_for_the_ballast(disk: Disk, begun: Space) -> None:
    """While three quarters of the ballast have no room, none is held, and writers get nothing."""
    begun.release(REFUSED)
    least = int(BALLAST * 3 / 4)
    disk.quota = least - 1
    begun.measure()
    assert disk.quota == least - 1
    with pytest.raises(StoreFull, match="quota"):
        begun.reserve(1)
    disk.quota += 1
    begun.measure()
    assert disk.quota == 0
    begun.reserve(1)
    begun.release(REFUSED)
    assert begun.working_bytes == int(least * 3 / 4)


def test_ingest_and_gc_share_a_released_ballast(disk: Disk, begun: Space) -> None:
    """Ingest and gc may use three quarters of a released ballast; the rest is for the index."""
    disk.quota = 0
    begun.release(REFUSED)
    disk.quota = 0  # other programs have used it
    begun.spend(3 * MB)
    begun.arrive(3 * MB)
    assert begun.working_bytes == int(BALLAST * 3 / 4) - 3 * MB
    with pytest.raises(StoreFull, match="the index needs the rest"):
        begun.spend(2 * MB)
    disk.quota = BALLAST
    begun.spend(20 * MB)  # it is held again
    assert disk.quota == 0


def test_only_a_full_disk_releases_the_ballast(disk: Disk, begun: Space) -> None:
    """A write that fails for another reason leaves the ballast."""
    assert not begun.release(OSError(errno.EIO, "Input/output error"))
    assert disk.free == 100 * MB - BALLAST


def test_a_write_of_the_index_is_repeated(disk: Disk, begun: Space) -> None:
    """A commit that the disk refuses has the ballast's room, and succeeds; once only."""
    begun.with_ballast(lambda: disk.take(100 * MB))
    assert disk.free == 0
    with pytest.raises(OSError, match="quota"):
        begun.with_ballast(lambda: disk.take(1))


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.EACCES])
def test_file_systems_without_a_ballast(disk: Disk, tmp_path: Path, error: int) -> None:
    """Without nameless files all is as before, also after a refused write."""
    disk.error = error
    space = Space(tmp_path, has_ballast=True)
    space.hold_ballast()
    assert not space.release(REFUSED)
    space.reserve(MB)
    assert space.room().free == 50 * MB - MB


def test_a_nearly_full_disk_has_no_ballast(disk: Disk, tmp_path: Path) -> None:
    """A disk that shows little room is divided as it shows it, and is left alone."""
    disk.free = 2 * BALLAST - 4096
    space = Space(tmp_path, has_ballast=True)
    space.hold_ballast()
    assert disk.free == 2 * BALLAST - 4096
    with pytest.raises(StoreFull, match=r"disk under the store$"):
        space.reserve(1)
    space.spend(MB)
    space.arrive(MB)
    disk.free = 100 * MB
    space.measure()
    assert disk.free == 100 * MB - BALLAST
    space.close()
    assert disk.free == 100 * MB


def test_a_quota_that_is_used_up_at_opening(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the disk shows room, and has none for the ballast, only the index may write."""
    disk.quota = MB
    space = Space(tmp_path, has_ballast=True)
    space.hold_ballast()
    with pytest.raises(StoreFull, match="quota"):
        space.reserve(1)
    seen = [space.may_have_changed]
    monkeypatch.setattr(ballast, "RETRY_SECONDS", -1.0)
    seen.append(space.may_have_changed)
    disk.quota = 10 * MB
    space.measure()
    seen.append(space.may_have_changed)
    assert seen == [False, True, False]
    space.reserve(MB)
    space.close()


def test_opening_has_the_room_of_the_ballast(
    disk: Disk, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is opened below a quota commits first, and holds the ballast then."""
    free: list[int] = []

    def begin(*arguments: Any) -> None:
        free.append(disk.free)
        begin_session(*arguments)

    monkeypatch.setattr(store_module, "begin_session", begin)
    box.store.close()
    box.store = Store(box.path)
    free.append(disk.free)
    assert free == [100 * MB, 100 * MB - BALLAST]


def test_a_segment_is_written_again(
    disk: Disk, opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that the disk refuses is written once more, in the room of the ballast."""
    write = Failing(write_at, REFUSED)
    monkeypatch.setattr("modelfs.store.packs.pack.write_at", write)
    inode = new_file(opened, b"f", noise(4 * CHUNK))
    ingest_all(opened)
    assert pending_files(opened) == []
    assert content_of(opened, inode) == noise(4 * CHUNK)
    with pytest.raises(StoreFull, match="quota"):
        opened.space.reserve(1)


def test_ingest_without_space_writes_nothing(disk: Disk, opened: Store) -> None:
    """Ingest without space writes nothing, and everything when there is space."""
    opened.space.close()
    inode = new_file(opened, b"f", noise(4 * CHUNK))
    disk.free = 6 * MB
    with pytest.raises(OSError, match="no space left"):
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


def test_gc_goes_on_with_the_floor_alone(
    disk: Disk, opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With less room than a pack's live chunks, gc copies and cuts it off portion by portion."""
    opened.space.close()
    monkeypatch.setattr(segment_module, "SEGMENT_SIZE", 4 * CHUNK)
    inodes = [new_file(opened, b"%d" % number, noise(4 * CHUNK, number)) for number in range(48)]
    ingest_all(opened)
    for number in range(0, 48, 2):
        opened.namespace.unlink(ROOT, b"%d" % number)
    disk.total = 6 * MB  # a reserve of 1.5 MiB, and 192 KiB of floor
    disk.free = 192 << 10
    assert opened.space.gc_bytes == 96 << 10
    before = disk_usage(opened.packs.directory.path)
    peaks: list[int] = []

    def run(cuts: list[Cut]) -> None:
        peaks.append(disk_usage(opened.packs.directory.path))
        DeferredCuts.run(opened.packs.cuts, cuts)

    monkeypatch.setattr(opened.packs.cuts, "run", run)
    collect(opened, LIVE_MIN_SMALL)
    assert len(peaks) > 4
    assert max(peaks) <= before + (96 << 10)
    assert opened.packs.numbers() == {PackId(2)}
    disk.total = disk.free = 1000 * MB
    contents = [content_of(opened, inode) for inode in inodes[1::2]]
    assert contents == [noise(4 * CHUNK, number) for number in range(1, 48, 2)]


def test_gc_without_room_for_a_segment(disk: Disk, opened: Store) -> None:
    """Gc that has not even room for a pack's last segment fails, and loses nothing."""
    opened.space.close()
    inodes = [new_file(opened, b"%d" % number, noise(30 * CHUNK, number)) for number in range(4)]
    ingest_all(opened)
    for number in range(3):
        opened.namespace.unlink(ROOT, b"%d" % number)
    disk.total, disk.free = 6 * MB, 96 << 10
    with pytest.raises(StoreFull, match="the index needs the rest"):
        collect(opened)
    assert content_of(opened, inodes[3]) == noise(30 * CHUNK, 3)
    disk.total = disk.free = 1000 * MB
    assert collect(opened) > 90 * CHUNK


def test_grants_count_nothing_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a grant nor a refusal walks over the store's folder: both come in requests."""
    space = Space(tmp_path, 100 * MB)
    monkeypatch.setattr(space_module, "FRESH_SECONDS", -1.0)
    monkeypatch.setattr(Usage, "count", Failing(Usage.count, AssertionError("a walk")))
    space.reserve(MB)
    for ask in (space.reserve, partial(space.borrow, staged_max=MB)):
        with pytest.raises(StoreFull):
            ask(200 * MB)


@pytest.mark.parametrize("staged", [0, 1, MB, 30 * MB])
def test_room_for_copies_of_all_staged_bytes(disk: Disk, tmp_path: Path, staged: int) -> None:
    """After writers have used all their room, ingest has room for every staged byte."""
    disk.free = 86 * MB
    space = Space(tmp_path, staged=lambda: staged, has_ballast=True)
    space.hold_ballast()
    more = space.writable_bytes()
    space.reserve(more)
    disk.free -= more
    space.arrive(more)
    space.spend(staged + more + (staged + more) // COPY_TABLES + INGEST_MARGIN)


def test_the_example_of_the_head(disk: Disk, tmp_path: Path) -> None:
    """The numbers of the example: 44 MiB for writers, and 178 after a collection."""
    disk.total, disk.free = 100 << 30, 300 * MB
    staged = 0
    space = Space(tmp_path, staged=lambda: staged, has_ballast=True)
    space.hold_ballast()
    assert space.writable_bytes() == 44 * MB
    space.reserve(44 * MB)
    disk.free -= 44 * MB
    staged = 44 * MB
    space.arrive(44 * MB)
    with pytest.raises(StoreFull):
        space.reserve(1)
    space.spend(60 * MB, for_gc=True)
    disk.free += 250 * MB - 60 * MB
    space.arrive(60 * MB)
    assert space.room().free == 190 * MB
    assert space.writable_bytes() // MB == 178
    disk.free -= 446 * MB - 75 * MB
    with pytest.raises(StoreFull):
        space.spend(60 * MB, for_gc=True)
    space.spend(59 * MB, for_gc=True)
