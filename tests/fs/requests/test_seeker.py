"""Searches for data and holes of open and of closed files."""

import os

import pytest

from modelfs.errors import CorruptIndex, InvalidArgument, PastData
from modelfs.fs.requests.seeker import Seeker
from modelfs.store.index.tables import InodeNumber, Table, pair_key
from tests.support.served_store import Served
from tests.support.stores import CHUNK, noise

HOLE = CHUNK  # from here on to 3 * CHUNK


@pytest.fixture
def seeker(served: Served) -> Seeker:
    return Seeker(served.store, served.handles)


async def sparse(served: Served) -> tuple[InodeNumber, int]:
    """Create a file of two chunks with a hole of two between them; return its open handle, too."""
    inode, handle = await served.created(b"f", noise(CHUNK))
    await served.operations.write(handle, 3 * CHUNK, noise(CHUNK, 1))
    return inode, handle


@pytest.mark.parametrize("ingested", [False, True])
async def test_seek(served: Served, seeker: Seeker, *, ingested: bool) -> None:
    """Data and holes of a closed file are found; the end is a hole, and behind it is nothing."""
    inode, handle = await sparse(served)
    await served.operations.release(handle)
    if ingested:
        await served.background.ingest.sync()
    for offset, data, hole in (
        (0, 0, HOLE),
        (HOLE - 1, HOLE - 1, HOLE),
        (HOLE, 3 * CHUNK, HOLE),
        (3 * CHUNK + 5, 3 * CHUNK + 5, 4 * CHUNK),
    ):
        assert await seeker.seek(inode, offset, os.SEEK_DATA) == data
        assert await seeker.seek(inode, offset, os.SEEK_HOLE) == hole
    await served.set(inode, size=5 * CHUNK)
    assert await seeker.seek(inode, 4 * CHUNK, os.SEEK_HOLE) == 4 * CHUNK
    with pytest.raises(PastData):
        await seeker.seek(inode, 4 * CHUNK, os.SEEK_DATA)
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        with pytest.raises(PastData):
            await seeker.seek(inode, 5 * CHUNK, whence)
    with pytest.raises(InvalidArgument):
        await seeker.seek(inode, 0, os.SEEK_END)


async def test_a_file_that_is_open_for_writing(served: Served, seeker: Seeker) -> None:
    """All of it is data, as the kernel may have pages of a mapping that lie in its holes."""
    inode, handle = await sparse(served)
    assert await seeker.seek(inode, HOLE, os.SEEK_DATA) == HOLE
    assert await seeker.seek(inode, HOLE, os.SEEK_HOLE) == 4 * CHUNK
    await served.operations.release(handle)
    assert await seeker.seek(inode, HOLE, os.SEEK_HOLE) == HOLE


async def test_missing_extents(served: Served, seeker: Seeker) -> None:
    """A hole that may be a missing extent is an error, and no search passes over it."""
    inode = await served.chunked(b"f", noise(3 * CHUNK))
    await served.background.durability.commit()
    key = pair_key(inode, CHUNK)
    row = served.store.index.get(Table.EXTENTS, key)
    assert row is not None
    with served.store.index.change():
        served.store.index.delete(Table.EXTENTS, key)
    await served.background.durability.commit()
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        with pytest.raises(CorruptIndex):
            await seeker.seek(inode, 0, whence)
    with served.store.index.change():
        served.store.index.put(Table.EXTENTS, key, row)
    await served.background.durability.commit()
    assert await seeker.seek(inode, 0, os.SEEK_HOLE) == 3 * CHUNK
