"""Copies inside the mount: cloned and copied bytes, errors on the way, and the conditions."""

import errno
from unittest import mock

import pytest
import trio
from pyfuse3 import FileHandleT, FUSEError

from modelfs.errors import CorruptIndex, FileTooLarge, InvalidArgument, NotSupported, StoreFull
from modelfs.fs.requests import copier as copier_module
from modelfs.fs.requests.changes import Changes
from modelfs.fs.requests.copier import Copier
from modelfs.store.files import flush as flush_module
from modelfs.store.files import map_edits
from modelfs.store.index.records import SIZE_MAX
from modelfs.store.index.tables import InodeNumber, Table, pair_key
from tests.support.file_maps import data_of
from tests.support.run_jobs import ingest_file
from tests.support.served_store import DATA, Served
from tests.support.stores import CHUNK, model_of, noise, pending_files

MODEL = model_of(noise(5000, 1), noise(300, 2), noise(9000, 3))


@pytest.fixture
def copier(served: Served) -> Copier:
    store, background = served.store, served.background
    changes = Changes(store.space, background, commits_names=False)
    return Copier(store, served.handles, background, changes, served.operations.write)


def reader(served: Served, inode: InodeNumber) -> FileHandleT:
    return served.handles.open(inode, writable=False)


async def copied_whole(
    served: Served, copier: Copier, source: InodeNumber, name: bytes = b"copy"
) -> tuple[InodeNumber, int]:
    """Copy a file as `cp` does; return the copy, and the number of requests."""
    handle, (inode, target) = reader(served, source), await served.created(name)
    at, requests = 0, 0
    while size := await copier.copy((handle, at), (target, at), 1 << 30, 1):
        at, requests = at + size, requests + 1
    await served.operations.release(target)
    assert at == served.store.contents.node(source).size
    return inode, requests


async def test_a_stored_file(served: Served, copier: Copier) -> None:
    """Its copy stages no byte and adds no chunk, and has the same tensors after its pass."""
    source = await served.chunked(b"f", MODEL)
    chunks = [*served.store.index.keys(Table.CHUNKS)]
    inode, requests = await copied_whole(served, copier, source)
    assert (requests, served.store.staging.bytes) == (1, 0)
    assert await served.content(inode) == MODEL
    await served.background.ingest.sync()
    assert [*served.store.index.keys(Table.CHUNKS)] == chunks
    assert served.store.inodes.get(inode).tensor_rows == 3
    assert pending_files(served.store) == []


async def test_a_staged_file(served: Served, copier: Copier) -> None:
    """Its copy is made of bytes."""
    source = await served.written(b"f", DATA)
    inode, _ = await copied_whole(served, copier, source)
    assert served.store.staging.bytes == 2 * len(DATA)
    assert await served.content(inode) == DATA


async def test_a_file_of_both(served: Served, copier: Copier) -> None:
    """Stored bytes and holes are cloned, and the staged bytes between them are copied."""
    source = await served.chunked(b"f", DATA)
    await served.set(source, size=10 * CHUNK)
    handle = served.handles.open(source, writable=True)
    await served.operations.write(handle, 5000, b"staged")
    await served.operations.write(handle, 9 * CHUNK, b"too")
    await served.operations.release(handle)
    expected = await served.content(source)
    inode, requests = await copied_whole(served, copier, source)
    assert requests == 1
    assert served.store.staging.bytes == 18
    assert await served.content(inode) == expected
    assert data_of(served.store, inode) == data_of(served.store, source)
    await served.background.ingest.sync()
    assert await served.content(inode) == expected


async def test_ragged_ranges(served: Served, copier: Copier) -> None:
    """Any range goes to any place, of the same file, too."""
    inode = await served.chunked(b"f", DATA)
    handle = served.handles.open(inode, writable=True)
    assert await copier.copy((handle, 5), (handle, 9001), 700, 1) == 700
    expected = DATA[:9001] + DATA[5:705] + DATA[9701:]
    assert await copier.copy((handle, 9000), (handle, 20_000), 10**6, 1) == len(DATA) - 9000
    expected = expected.ljust(20_000, b"\0") + expected[9000:]
    assert await copier.copy((handle, 10**6), (handle, 0), 5, 1) == 0
    await served.operations.release(handle)
    assert await served.content(inode) == expected
    await served.background.ingest.sync()
    assert await served.content(inode) == expected


async def test_refused_copies(served: Served, copier: Copier) -> None:
    """A range is not copied into itself, nor behind the end of the largest file."""
    inode = await served.chunked(b"f", DATA)
    handle = served.handles.open(inode, writable=True)
    for at in (5, 0, 10, 100):
        with pytest.raises(InvalidArgument):
            await copier.copy((handle, 5), (handle, at), 96, 1)
    with pytest.raises(FileTooLarge):
        await copier.copy((handle, 0), (handle, SIZE_MAX - 4), 5, 1)
    assert await copier.copy((handle, 5), (handle, 101), 96, 1) == 96


async def test_long_copies(served: Served, copier: Copier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request ends when its time is over, after one slice at least; others run meanwhile."""
    monkeypatch.setattr(map_edits, "EDIT_SLICE", 1)
    monkeypatch.setattr(copier_module, "COPY_SECONDS", -1.0)
    source = await served.chunked(b"f", DATA)
    inode, requests = await copied_whole(served, copier, source)
    assert requests == 4
    assert await served.content(inode) == DATA
    monkeypatch.setattr(copier_module, "COPY_SECONDS", 1000.0)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            _, requests = await copied_whole(served, copier, source, b"again")
            assert requests == 1
            scope.cancel()
    assert turns


async def test_an_error_on_the_way(
    served: Served, copier: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes before it count; the next request gets it."""
    monkeypatch.setattr(map_edits, "EDIT_SLICE", 1)
    source = await served.chunked(b"f", DATA)
    handle, (_, target) = reader(served, source), await served.created(b"copy")
    put = served.store.edits.put
    failing = mock.Mock(side_effect=[None, StoreFull("no room"), StoreFull("no room")])

    def put_or_fail(*args: object) -> None:
        failing()
        put(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(served.store.edits, "put", put_or_fail)
    assert await copier.copy((handle, 0), (target, 0), 1 << 20, 1) == CHUNK
    with pytest.raises(StoreFull):
        await copier.copy((handle, CHUNK), (target, CHUNK), 1 << 20, 1)


async def test_a_write_that_fails(served: Served, copier: Copier) -> None:
    """The error of a write of staged bytes is that of the copy."""
    source = await served.written(b"f", DATA)
    handle, (_, target) = reader(served, source), await served.created(b"copy")

    async def fail(*_: object) -> int:
        raise FUSEError(errno.ENOSPC)

    failing = Copier(
        served.store,
        served.handles,
        served.background,
        Changes(served.store.space, served.background, commits_names=False),
        fail,
    )
    with pytest.raises(FUSEError):
        await failing.copy((handle, 0), (target, 0), 1 << 20, 1)


async def test_room_for_rows(
    served: Served, copier: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone needs room for its rows, and gives it back."""
    source = await served.chunked(b"f", DATA)
    handle, (_, target) = reader(served, source), await served.created(b"copy")
    before = served.store.space._usage.coming
    assert await copier.copy((handle, 0), (target, 0), CHUNK, 1) == CHUNK
    assert served.store.space._usage.coming == before
    asked: list[tuple[int, int]] = []

    async def refuse(size: int, pid: int = 0, at: object = None) -> None:
        asked.append((size, pid))
        raise StoreFull("no room")

    monkeypatch.setattr(served.background.shortage, "reserve", refuse)
    with pytest.raises(StoreFull):
        await copier.copy((handle, 0), (target, CHUNK), CHUNK, 77)
    assert asked == [(copier_module.SLICE_ROOM, 77)]


async def test_set_id_bits(served: Served, copier: Copier) -> None:
    """A copy into a file ends setuid, as a write does."""
    source, target = await served.chunked(b"f", DATA), await served.chunked(b"g", DATA)
    await served.set(target, mode=0o104755)
    handle = served.handles.open(target, writable=True)
    await copier.copy((reader(served, source), 0), (handle, 5), 5, 1)
    assert served.store.inodes.get(target).mode & 0o7777 == 0o755


async def test_missing_extents(served: Served, copier: Copier) -> None:
    """The place of a missing extent is not copied as a hole."""
    source = await served.chunked(b"f", DATA)
    key = pair_key(source, CHUNK)
    row = served.store.index.get(Table.EXTENTS, key)
    assert row is not None
    with served.store.index.change():
        served.store.index.delete(Table.EXTENTS, key)
    await served.background.durability.commit()
    handle, (_, target) = reader(served, source), await served.created(b"copy")
    with pytest.raises(CorruptIndex, match="are missing"):
        await copier.copy((handle, 0), (target, 0), 1 << 20, 1)
    with served.store.index.change():
        served.store.index.put(Table.EXTENTS, key, row)
    await served.background.durability.commit()
    assert await copier.copy((handle, 0), (target, 0), 1 << 20, 1) == len(DATA)


async def test_bytes_that_became_chunks(
    served: Served, copier: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A staged range that ingest takes in the middle of a copy is copied all the same."""
    source = await served.written(b"f", DATA)
    handle, (inode, target) = reader(served, source), await served.created(b"copy")
    clone = served.store.clones.clone
    calls = 0

    def clone_and_ingest(*args: int):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        size = yield from clone(*args)  # type: ignore[arg-type]
        if calls == 1:
            ingest_file(served.store, source)
        return size

    monkeypatch.setattr(served.store.clones, "clone", clone_and_ingest)
    at = 0
    while size := await copier.copy((handle, at), (target, at), 1 << 20, 1):
        at += size
    assert at == len(DATA)
    assert await served.content(inode) == DATA


async def test_a_long_truncation_is_left_to_the_kernel(
    served: Served, copier: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy does not wait for the extents of a long file that was cut; the kernel copies then."""
    monkeypatch.setattr(flush_module, "TRIM_SLICE", 1)
    monkeypatch.setattr(copier_module, "COPY_SECONDS", -1.0)
    inode, source = await served.chunked(b"f", DATA), await served.chunked(b"g", noise(50))
    await served.set(inode, size=0)
    target, handle = served.handles.open(inode, writable=True), reader(served, source)
    refused = 0
    for _ in range(len(DATA)):
        try:
            assert await copier.copy((handle, 0), (target, 0), 50, 1) == 50
            break
        except NotSupported:
            refused += 1
    assert refused > 1
    assert await served.content(inode) == noise(50)
