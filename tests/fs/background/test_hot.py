"""Hot copies: which files get one, and when."""

import errno
import os

import pytest
import trio
from pyfuse3 import FileHandleT, InodeT

from modelfs.errors import CorruptChunk
from modelfs.fs.background import hot as hot_module
from modelfs.fs.background.hot import HotCopies
from modelfs.store.files.copies import Copies
from modelfs.store.files.whole_file import WholeFile
from modelfs.store.index.tables import InodeNumber
from tests.support.kernel_writes import path_of, whole_of
from tests.support.served_store import ASKED, READ, Served
from tests.support.stores import noise, overwrite, pack_path

MB = 1 << 20
CONTENT = noise(3 * MB)


@pytest.fixture
def hot(served: Served) -> HotCopies:
    hot = served.background.hot
    hot.begin(None)
    return hot


@pytest.fixture
def copies(served: Served) -> Copies:
    return served.store.staging.wholes.copies


async def read_whole(served: Served, inode: InodeNumber, part: float = 1) -> None:
    """Read a file as a program does, in requests of 1 MiB."""
    info = await served.operations.open(InodeT(inode), READ, ASKED)
    for start in range(0, int(len(CONTENT) * part), MB):
        await served.operations.read(info.fh, start, MB)
    await served.operations.release(info.fh)


async def test_a_file_that_is_read_twice_becomes_hot(
    served: Served, hot: HotCopies, copies: Copies
) -> None:
    """The second open makes it due; then its copy has all of its bytes."""
    inode = await served.chunked(b"f", CONTENT)
    await hot.keep()
    await read_whole(served, inode)
    await hot.warm_due()
    assert copies.find(inode) is None
    await read_whole(served, inode)
    await hot.warm_due()
    assert path_of(served.store, whole_of(served.store, inode)).read_bytes() == CONTENT
    assert await served.content(inode) == CONTENT


async def test_reads_of_parts_warm_nothing(served: Served, hot: HotCopies, copies: Copies) -> None:
    """A program that looks at a header or at some tensors may never read the rest."""
    inode = await served.chunked(b"f", CONTENT)
    await hot.keep()
    for _ in range(3):
        await read_whole(served, inode, 0.3)
    await hot.warm_due()
    assert len(copies) == 0


async def test_reads_a_long_time_apart(
    served: Served, hot: HotCopies, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_module, "HEAT_SECONDS", -1.0)
    inode = await served.chunked(b"f", CONTENT)
    await hot.keep()
    for _ in range(3):
        await read_whole(served, inode)
    await hot.warm_due()
    assert len(copies) == 0


async def test_a_file_that_changes_meanwhile(
    served: Served, hot: HotCopies, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays cold, although its new content is in chunks by then."""
    inode = await served.chunked(b"f", CONTENT)
    await hot.keep()
    fill = HotCopies._fill

    async def fill_and_change(*args: object) -> None:
        await fill(*args)  # type: ignore[arg-type]
        info = await served.operations.open(InodeT(inode), os.O_RDWR, ASKED)
        await served.operations.write(info.fh, 5, b"new")
        await served.operations.release(info.fh)
        await served.background.ingest.sync()

    monkeypatch.setattr(HotCopies, "_fill", fill_and_change)
    assert not await hot.warm(inode)
    await hot.keep()
    assert len(copies) == 0
    assert [*served.store.staging.directory.path.iterdir()] == []
    assert await served.content(inode) == CONTENT[:5] + b"new" + CONTENT[8:]


async def test_files_that_get_no_copy(served: Served, hot: HotCopies, copies: Copies) -> None:
    """Staged ones, those that are open for writing, small ones, folders, and removed ones."""
    await hot.keep()
    staged, handle = await served.created(b"staged", CONTENT)
    small = await served.chunked(b"small", CONTENT[:1000])
    for inode in (staged, small, InodeNumber(1), InodeNumber(999)):
        assert not await hot.warm(inode)
    await served.operations.release(FileHandleT(handle))
    inode = await served.chunked(b"f", CONTENT)
    info = await served.operations.open(InodeT(inode), os.O_RDWR, ASKED)
    assert not await hot.warm(inode)
    await served.operations.release(info.fh)
    assert await hot.warm(inode)
    assert await hot.warm(inode)
    assert [*copies] == [inode]


async def test_holes_stay_holes(served: Served, hot: HotCopies) -> None:
    await hot.keep()
    inode, handle = await served.created(b"f", CONTENT)
    await served.operations.write(handle, 40 * MB, b"end")
    await served.operations.release(handle)
    await served.background.ingest.sync()
    assert await hot.warm(inode)
    path = path_of(served.store, whole_of(served.store, inode))
    assert path.read_bytes() == CONTENT.ljust(40 * MB, b"\0") + b"end"
    assert path.stat().st_blocks * 512 < 20 * MB


async def test_a_damaged_file_stays_cold(
    served: Served, hot: HotCopies, copies: Copies, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error is the reader's; nothing of it is left on the disk."""
    inode = await served.chunked(b"f", CONTENT)
    await hot.keep()
    path = pack_path(served.store.packs, 1)
    good = path.read_bytes()
    overwrite(path, len(good) // 2, bytes([good[len(good) // 2] ^ 1]))
    with pytest.raises(CorruptChunk):
        await hot.warm(inode)
    hot.opened(inode)
    hot._due[inode] = None
    await hot.warm_due()
    await hot.keep()
    assert "does not become hot" in caplog.text
    caplog.clear()
    assert len(copies) == 0
    assert [*served.store.staging.directory.path.iterdir()] == []
    path.write_bytes(good)


async def test_the_room_of_all_copies(
    served: Served, hot: HotCopies, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the room above twice the reserve, or the size that was given."""
    space = served.store.space
    reserve = space.reserve_bytes
    monkeypatch.setattr(type(space), "writable_bytes", lambda _: reserve + 100 * MB)
    await hot.keep()
    assert copies.size_max == 25 * MB
    hot.begin(7 * MB)
    await hot.keep()
    assert copies.size_max == 7 * MB
    inode = await served.chunked(b"f", CONTENT)
    assert await hot.warm(inode)
    monkeypatch.setattr(type(space), "writable_bytes", lambda _: reserve - 3 * MB)
    await hot.keep()
    assert (copies.size_max, len(copies)) == (0, 0)
    hot.begin(0)
    await hot.keep()
    assert copies.size_max == 0


async def test_warms_at_the_same_time(
    served: Served, hot: HotCopies, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come one after the other, so that all together have the room of one size."""
    inodes = [await served.chunked(b"%d" % n, noise(3 * MB, n)) for n in range(3)]
    hot.begin(7 * MB)
    monkeypatch.setattr(hot_module, "IDLE_SECONDS", 0.0)
    async with trio.open_nursery() as nursery:
        for inode in (*inodes, *inodes):
            nursery.start_soon(hot.warm_now, inode)
    await hot.keep()
    assert len(copies) == 2
    assert len([*served.store.staging.directory.path.iterdir()]) == 2


async def test_a_sparse_file_stays_cold(served: Served, hot: HotCopies, copies: Copies) -> None:
    """It takes less than a hot file may."""
    await hot.keep()
    inode, handle = await served.created(b"f", b"begin")
    await served.operations.write(handle, 20 * MB, b"end")
    await served.operations.release(handle)
    await served.background.ingest.sync()
    assert not await hot.warm(inode)
    assert len(copies) == 0


async def test_a_request_that_waits_for_room_gets_that_of_copies(
    served: Served, hot: HotCopies, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies count as free in `df`, and a round that makes room deletes them."""
    inode = await served.chunked(b"f", CONTENT)
    await hot.keep()
    disk = os.statvfs(served.store.folder)  # other programs use it, too
    monkeypatch.setattr(type(served.store.space), "_disk", lambda _: disk)
    before = await served.operations.statfs(ASKED)
    assert await hot.warm(inode)
    after = await served.operations.statfs(ASKED)
    free = (after.f_bavail - before.f_bavail) * before.f_frsize
    assert free == pytest.approx(copies.bytes, abs=before.f_frsize)
    await served.background.shortage._rounds.make_room()
    assert len(copies) == 0
    assert [*served.store.staging.directory.path.iterdir()] == []


async def test_a_copy_that_the_disk_failed_to_write(
    served: Served,
    hot: HotCopies,
    copies: Copies,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No program gets it, and the file is read from its chunks."""
    inode = await served.chunked(b"f", CONTENT)
    await hot.keep()
    sync = WholeFile._fdatasync
    monkeypatch.setattr(WholeFile, "_fdatasync", lambda self: sync(self) or errno.EIO)
    with pytest.raises(OSError, match="the disk failed to write its copy"):
        await hot.warm(inode)
    assert len(copies) == 0
    whole = served.store.staging.new_copy(inode)
    whole.put(0, CONTENT)
    copies.add(inode, whole)
    assert copies.proven(inode) is None
    await hot.keep()
    assert f"the copy of file {inode}: it is not hot" in caplog.text
    caplog.clear()
    assert len(copies) == 0
    assert await served.content(inode) == CONTENT


async def test_a_recent_copy_is_not_dropped_for_another(
    served: Served, hot: HotCopies, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are warmed one after the other do not displace each other."""
    inodes = [await served.chunked(b"%d" % n, noise(3 * MB, n)) for n in range(3)]
    hot.begin(7 * MB)
    assert [await hot.warm_now(inode) for inode in inodes] == [True, True, False]
    assert [*copies] == inodes[:2]
    monkeypatch.setattr(hot_module, "IDLE_SECONDS", 0.0)
    assert await hot.warm_now(inodes[2])
    assert [*copies] == inodes[1:]


async def test_a_large_sparse_file_takes_what_it_has(
    served: Served, hot: HotCopies, copies: Copies
) -> None:
    inode, handle = await served.created(b"f", CONTENT)
    await served.operations.write(handle, 1 << 36, b"end")
    await served.operations.release(handle)
    await served.background.ingest.sync()
    hot.begin(20 * MB)
    assert await hot.warm_now(inode)
    assert copies.bytes < 5 * MB
    assert whole_of(served.store, inode).stamp()[0] == (1 << 36) + 3
