"""The extent cache: sections of maps with their chunks' records, damaged ones among them."""

from collections.abc import Iterator

import pytest

from modelfs.errors import CorruptIndex
from modelfs.store.files import extent_cache
from modelfs.store.files.extent_cache import ExtentCache
from modelfs.store.files.filemap import FileMaps
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import ChunkId, InodeNumber, Table, number_key, pair_key
from modelfs.store.store import Store
from tests.support.run_jobs import ingest_file
from tests.support.stores import CHUNK, content_of, model_of, new_file, noise, stored_file

pytestmark = pytest.mark.usefixtures("windows")


@pytest.mark.parametrize("wrong", [Extent(0, ChunkId(1), 1, CHUNK), Extent(0, ChunkId(1), 0, 5000)])
def test_a_damaged_extent_reads_no_other_chunk(opened: Store, wrong: Extent) -> None:
    """An extent past the end of its chunk is an error: another file's bytes lie there."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    stored_file(opened, b"g", noise(CHUNK, 1))
    key = pair_key(inode, 0)
    right = opened.index.get(Table.EXTENTS, key)
    assert right is not None
    with opened.index.change():
        opened.index.put(Table.EXTENTS, key, wrong.to_bytes())
    with pytest.raises(CorruptIndex, match="past the end of chunk 1"):
        content_of(opened, inode)
    with opened.index.change():
        opened.index.put(Table.EXTENTS, key, right)
    assert content_of(opened, inode) == noise(CHUNK)


def test_a_damaged_record_fails_its_bytes_only(opened: Store) -> None:
    """A lost chunk record fails the reads that need it, and no other reads."""
    data = noise(3 * CHUNK)
    inode = stored_file(opened, b"f", data)
    _, middle, _ = opened.maps.within(inode, 0, len(data))
    key = number_key(middle.chunk)
    record = opened.index.get(Table.CHUNKS, key)
    assert record is not None
    with opened.index.change():
        opened.index.put(Table.CHUNKS, key, b"junk")
    for _ in range(2):
        assert opened.contents.read(inode, 0, CHUNK) == data[:CHUNK]
        assert opened.contents.read(inode, 2 * CHUNK, CHUNK) == data[2 * CHUNK :]
        with pytest.raises(CorruptIndex):
            opened.contents.read(inode, 0, 2 * CHUNK)
    with opened.index.change():
        opened.index.put(Table.CHUNKS, key, record)
    assert content_of(opened, inode) == data


def test_planning_ahead_is_bounded(opened: Store) -> None:
    """Read-ahead of a file cut into tiny chunks is short; of any other file it is not."""
    small = stored_file(opened, b"small", model_of(*(noise(200, n) for n in range(1000))))
    assert 0 < len(opened.contents.plan_ahead(small, 20_000, 1 << 20)) < 200
    large = stored_file(opened, b"large", noise(30 * CHUNK))
    assert sum(run.size for run in opened.contents.plan_ahead(large, 10, 1 << 20)) == (
        30 * CHUNK - 10
    )


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where the sections begin that are loaded from now on."""
    starts: list[int] = []
    real = FileMaps.overlapping

    def counted(maps: FileMaps, inode: InodeNumber, start: int, stop: int) -> Iterator[Extent]:
        starts.append(start)
        return real(maps, inode, start, stop)

    monkeypatch.setattr(FileMaps, "overlapping", counted)
    return starts


def test_a_section_is_loaded_once(opened: Store, loads: list[int]) -> None:
    """Sequential reads load the rows of a file once, until any map or chunk record changes."""
    inode = stored_file(opened, b"f", noise(8 * CHUNK))
    loads.clear()
    for at in range(0, 8 * CHUNK, 1000):
        opened.contents.read(inode, at, 1000)
    assert loads == [0]
    other = new_file(opened, b"g", noise(10))
    opened.contents.read(inode, 5000, 1000)
    assert loads == [0]  # a write changes no map
    ingest_file(opened, other)
    loads.clear()
    opened.contents.read(inode, 5000, 1000)
    assert loads == [5000]


def test_a_reader_and_its_read_ahead_have_a_section_each(
    opened: Store, loads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan past the end of a reader's section drops another one, and not that."""
    monkeypatch.setattr(extent_cache, "SECTION_BYTES", 2 * CHUNK)
    monkeypatch.setattr(extent_cache, "SECTION_EXTENTS", 2)
    inode = stored_file(opened, b"f", noise(8 * CHUNK))
    loads.clear()
    for at in range(0, 4 * CHUNK, CHUNK // 4):
        opened.contents.read(inode, at, 100)
        opened.contents.plan_ahead(inode, at + 2 * CHUNK, 100)
    assert loads == [0, 2 * CHUNK, 4 * CHUNK]


@pytest.mark.parametrize("extents", [1, 3, 64])
def test_reads_are_right_at_any_length_of_sections(
    opened: Store, monkeypatch: pytest.MonkeyPatch, extents: int
) -> None:
    """Reads that begin inside, at and behind the edges of sections have all their bytes."""
    monkeypatch.setattr(extent_cache, "SECTION_EXTENTS", extents)
    monkeypatch.setattr(extent_cache, "SECTION_BYTES", CHUNK + 1)
    data = noise(2 * CHUNK) + bytes(3 * CHUNK) + noise(3 * CHUNK, 1)
    inode = new_file(opened, b"f")
    opened.writes.write(inode, 0, data[: 2 * CHUNK])
    opened.writes.write(inode, 5 * CHUNK, data[5 * CHUNK :])
    ingest_file(opened, inode)
    edges = sorted({edge + by for edge in range(0, len(data), CHUNK) for by in (-1, 0, 1)} - {-1})
    for size in (1, CHUNK - 1, CHUNK, 3 * CHUNK):
        for start in edges:
            assert opened.contents.read(inode, start, size) == data[start : start + size]


def test_few_files_are_remembered(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sections of the files that were read last are kept, and no others."""
    monkeypatch.setattr(extent_cache, "FILES_MAX", 2)
    inodes = [stored_file(opened, b"%d" % number, noise(100, number)) for number in range(3)]
    cache = ExtentCache(opened.index, opened.maps, opened.chunks)
    for inode in (*inodes[:2], inodes[0], inodes[2]):
        assert len(list(cache.find(inode, 0, 100))) == 1
    assert list(cache._sections) == [inodes[0], inodes[2]]
