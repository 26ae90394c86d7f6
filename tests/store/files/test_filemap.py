"""File maps, compared with a list of the chunk of each byte."""

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelfs.errors import ModelfsError
from modelfs.jobs.check.fsck import check
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import ROOT, ChunkId, InodeNumber, Table, number_key
from modelfs.store.store import Store
from tests.support.run_jobs import drain
from tests.support.stores import new_file, noise

SIZE = 60
CHUNK_MAX = 20
Place = tuple[ChunkId, int] | None  # chunk, and offset in it

CALLS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "clear", "trim", "commit"]),
        st.integers(0, SIZE),
        st.integers(1, CHUNK_MAX),
        st.integers(0, 2),
    ),
    max_size=15,
)


def chunks_of(store: Store) -> list[ChunkId]:
    writer = store.writer()
    chunks = [writer.put(noise(2 * CHUNK_MAX, seed), compress=False) for seed in range(3)]
    drain(store.publish(writer.finish()))
    return chunks


def places(store: Store, inode: InodeNumber) -> list[Place]:
    chunk_of_byte: list[Place] = [None] * (SIZE + CHUNK_MAX)
    for extent in store.maps.within(inode, 0, len(chunk_of_byte)):
        for at in range(extent.length):
            assert chunk_of_byte[extent.start + at] is None
            chunk_of_byte[extent.start + at] = extent.chunk, extent.skip + at
    return chunk_of_byte


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(calls=CALLS)
def test_a_map_is_a_list_of_bytes(opened: Store, calls: list[tuple[str, int, int, int]]) -> None:
    """Replacing, clearing and trimming a range changes its bytes and no others."""
    chunks = chunks_of(opened)
    inode = new_file(opened, b"f")
    wanted: list[Place] = [None] * (SIZE + CHUNK_MAX)
    for call, start, size, which in calls:
        with opened.index.change():
            if call == "replace":
                extent = Extent(start, chunks[which], which, size)
                opened.maps.replace(inode, start, start + size, [extent])
                wanted[start : start + size] = [(chunks[which], which + n) for n in range(size)]
            elif call == "clear":
                opened.maps.replace(inode, start, start + size, [])
                wanted[start : start + size] = [None] * size
            elif call == "trim":
                while not opened.maps.trim(inode, start, 2):
                    pass
                wanted[start:] = [None] * (len(wanted) - start)
        if call == "commit":
            opened.commit()
        assert places(opened, inode) == wanted
    opened.writes.truncate(inode, len(wanted))
    opened.flush(inode)
    assert check(opened) == []
    opened.namespace.unlink(ROOT, b"f")
    drain(opened.orphans.remove(inode))


def mapped(store: Store, inode: InodeNumber, count: int) -> None:
    """Give a file extents of one byte each."""
    chunk = chunks_of(store)[0]
    with store.index.change():
        for at in range(count):
            store.maps.replace(inode, at, at + 1, [Extent(at, chunk, 0, 1)])


def trim(store: Store, inode: InodeNumber, start: int, limit: int) -> bool:
    with store.index.change():
        return store.maps.trim(inode, start, limit)


def starts(store: Store, inode: InodeNumber) -> list[int]:
    return store.maps.starts(inode, 0, 1000)[0]


@pytest.fixture
def long_file(opened: Store) -> InodeNumber:
    """A file with ten extents."""
    inode = new_file(opened, b"f", bytes(10))
    opened.flush(inode)
    mapped(opened, inode, 10)
    return inode


def test_slices_of_a_trim_add_up(opened: Store, long_file: InodeNumber) -> None:
    """A trim in slices removes everything from its start on, and nothing before."""
    done = [trim(opened, long_file, 3, 2) for _ in range(4)]
    assert done == [False, False, False, True]
    assert starts(opened, long_file) == [0, 1, 2]


def test_an_undone_trim_starts_again(opened: Store, long_file: InodeNumber) -> None:
    """A slice whose change failed is repeated by the next one."""
    assert not trim(opened, long_file, 3, 2)
    with contextlib.suppress(ModelfsError), opened.index.change():
        opened.maps.trim(long_file, 3, 2)
        raise ModelfsError
    while not trim(opened, long_file, 3, 2):
        pass
    assert starts(opened, long_file) == [0, 1, 2]


def test_an_abandoned_trim_is_not_continued(opened: Store, long_file: InodeNumber) -> None:
    """Extents mapped after an unfinished trim are removed by the next trim from there."""
    assert not trim(opened, long_file, 3, 2)
    while not trim(opened, long_file, 1, 2):
        pass
    mapped(opened, long_file, 10)
    while not trim(opened, long_file, 3, 2):
        pass
    assert starts(opened, long_file) == [0, 1, 2]


def test_an_extent_without_its_chunk_is_damage(opened: Store, long_file: InodeNumber) -> None:
    """Cutting an extent whose chunk is missing changes nothing and raises."""
    key = number_key(next(opened.maps.within(long_file, 0, 1)).chunk)
    value = opened.index.get(Table.CHUNKS, key)
    assert value is not None
    with opened.index.change():
        opened.index.delete(Table.CHUNKS, key)
    with pytest.raises(ModelfsError):
        trim(opened, long_file, 0, 100)
    with opened.index.change():
        opened.index.put(Table.CHUNKS, key, value)
    assert starts(opened, long_file) == list(range(10))
