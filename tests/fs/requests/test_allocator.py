"""Allocations and holes: sizes, contents, room, and the conditions of changes."""

import errno

import pytest

from modelfs.errors import FileTooLarge, NotSupported, StoreFull
from modelfs.fs.requests.allocator import ZERO_RANGE, Allocator
from modelfs.fs.requests.changes import Changes
from modelfs.store.disk.allocation import KEEP_SIZE, PUNCH_HOLE
from modelfs.store.disk.space import Space
from modelfs.store.index.records import SIZE_MAX
from modelfs.store.index.tables import InodeNumber
from tests.support.file_maps import data_of
from tests.support.served_store import DATA, Served
from tests.support.stores import CHUNK

COLLAPSE_RANGE, INSERT_RANGE = 8, 32


@pytest.fixture
def allocator(served: Served) -> Allocator:
    changes = Changes(served.store.space, served.background, commits_names=False)
    return Allocator(served.store, served.background, changes)


async def made(served: Served, *, ingested: bool) -> InodeNumber:
    return await (served.chunked if ingested else served.written)(b"f", DATA)


@pytest.mark.parametrize("ingested", [False, True])
@pytest.mark.parametrize(
    ("mode", "start", "stop", "size", "hole"),
    [
        (0, 5, 100_000, 100_000, (len(DATA), 100_000)),
        (0, 0, CHUNK, len(DATA), None),
        (KEEP_SIZE, 5, 100_000, len(DATA), None),
        (PUNCH_HOLE | KEEP_SIZE, 5, 9000, len(DATA), (5, 9000)),
        (PUNCH_HOLE | KEEP_SIZE, 9000, 100_000, len(DATA), (9000, len(DATA))),
        (ZERO_RANGE, 5, 9000, len(DATA), (5, 9000)),
        (ZERO_RANGE, 9000, 100_000, 100_000, (9000, 100_000)),
        (ZERO_RANGE | KEEP_SIZE, 9000, 100_000, len(DATA), (9000, len(DATA))),
    ],
)
async def test_allocate(
    served: Served,
    allocator: Allocator,
    *,
    ingested: bool,
    mode: int,
    start: int,
    stop: int,
    size: int,
    hole: tuple[int, int] | None,
) -> None:
    """Each mode has its size and its hole; all other bytes stay, and nothing is stored."""
    inode = await made(served, ingested=ingested)
    before = served.store.staging.bytes
    await allocator.allocate(inode, start, stop, mode, 1)
    expected = DATA.ljust(size, b"\0")
    if hole is not None:
        expected = expected[: hole[0]] + bytes(hole[1] - hole[0]) + expected[hole[1] :]
        assert [*data_of(served.store, inode).within(*hole)] == []
    assert await served.content(inode) == expected
    assert served.store.staging.bytes <= before
    await served.background.ingest.sync()
    assert await served.content(inode) == expected


async def test_modes_that_are_not_supported(served: Served, allocator: Allocator) -> None:
    """No range is collapsed or inserted, and no file is longer than the kernel's longest."""
    inode = await made(served, ingested=True)
    for mode in (COLLAPSE_RANGE, INSERT_RANGE, 64):
        with pytest.raises(NotSupported):
            await allocator.allocate(inode, 0, CHUNK, mode, 1)
    with pytest.raises(FileTooLarge):
        await allocator.allocate(inode, SIZE_MAX, SIZE_MAX + 1, 0, 1)
    assert NotSupported.errno == errno.EOPNOTSUPP
    assert await served.content(inode) == DATA


async def test_room(served: Served, allocator: Allocator, monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocation needs room for its holes and keeps none; a hole needs none."""
    asked: list[int] = []
    room = 10 * CHUNK

    def reserve(space: Space, size: int) -> None:
        asked.append(size)
        if size > room:
            raise StoreFull("no room")
        space._usage.promise(size)

    inode = await made(served, ingested=True)
    monkeypatch.setattr(Space, "reserve", reserve)
    monkeypatch.setattr(served.background.shortage, "_may_wait", False)
    await allocator.allocate(inode, 0, len(DATA) + 100, 0, 1)
    assert asked == [100]
    await allocator.allocate(inode, 0, 7, KEEP_SIZE, 1)
    assert asked == [100, 7]
    for mode in (0, KEEP_SIZE, ZERO_RANGE):
        with pytest.raises(StoreFull):
            await allocator.allocate(inode, 0, len(DATA) + room + 101, mode, 1)
    assert served.store.contents.node(inode).size == len(DATA) + 100
    asked.clear()
    await allocator.allocate(inode, 0, len(DATA) + room + 101, PUNCH_HOLE | KEEP_SIZE, 1)
    assert asked == []
    assert served.store.space._usage.coming == 0


async def test_set_id_bits(served: Served, allocator: Allocator) -> None:
    """An allocation ends setuid, as a write does."""
    inode = await made(served, ingested=True)
    await served.set(inode, mode=0o104755)
    await allocator.allocate(inode, 0, 1, PUNCH_HOLE | KEEP_SIZE, 1)
    assert served.store.inodes.get(inode).mode & 0o7777 == 0o755


async def test_times(served: Served, allocator: Allocator) -> None:
    """A hole and a larger size change mtime; an allocation that keeps both does not."""
    inode = await made(served, ingested=True)
    for start, stop, mode, changes in (
        (0, 10, KEEP_SIZE, False),
        (0, 10, 0, False),
        (0, 10, PUNCH_HOLE | KEEP_SIZE, True),
        (0, len(DATA) + 1, 0, True),
    ):
        await served.set(inode, mtime_ns=5)
        await allocator.allocate(inode, start, stop, mode, 1)
        assert (served.store.contents.node(inode).mtime_ns != 5) is changes
