"""The uses of chunks by files, read from the index."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from modelfs.codecs.base import CodecId
from modelfs.jobs.defrag import usage as usage_module
from modelfs.jobs.defrag.order import PackedChunks
from modelfs.jobs.defrag.usage import CHUNK, EXTENT, read_usage
from modelfs.store.index import committed as committed_module
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.index import Index
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import ChunkId, PackId, Table, pair_of
from modelfs.store.store import Store
from tests.support.damaged_rows import damage_row
from tests.support.run_jobs import optimize
from tests.support.sample_store import copy_of
from tests.support.stores import stored_file


def read_in_order(store: Store) -> Iterator[tuple[int, int]]:
    """Yield inode and chunk of the read sequence of all files, by a plain walk."""

    def needed(chunk: ChunkId) -> list[ChunkId]:
        levels = [[chunk]]
        while levels[-1]:
            levels.append([s for each in levels[-1] for s in store.chunks.lineage.sources(each)])
        return [each for level in levels for each in level]

    seen = set()
    for key, value in store.index.pages(Table.EXTENTS):
        inode, start = pair_of(key)
        for chunk in needed(Extent.from_bytes(start, value).chunk):
            if (inode, chunk) not in seen and not store.chunks.record(chunk).is_lost:
                seen.add((inode, chunk))
                yield inode, chunk


def uses_of(store: Store) -> set[tuple[int, int]]:
    """Return inode and chunk of each use that `read_usage` finds."""
    chunks, reads = read_usage(store.index)
    inodes, numbers = reads.inodes[reads.file].tolist(), chunks.number[reads.chunk].tolist()
    return set(zip(inodes, numbers, strict=True))


def test_columns_are_the_fields_of_the_records() -> None:
    """Each column that is read has the offset and width of the record's field of that name."""
    for kind, value in ((ChunkKind.PLAIN, 0), (ChunkKind.DERIVED, (1 << 32) - 1)):
        chunk = Chunk(
            kind,
            CodecId.RAW,
            2,
            PackId(value << 29),
            value << 29 | 5,
            value,
            value,
            8,
            9,
            bytes(range(16)),
            dependants=value,
            content_checksum=12,
            element=13,
        )
        columns = np.frombuffer(chunk.to_bytes(), CHUNK)[0]
        names = list(CHUNK.fields or ())
        assert names
        assert [columns[name] for name in names] == [getattr(chunk, name) for name in names]
    extent = Extent(0, ChunkId((1 << 62) - 7), 1, 2)
    assert np.frombuffer(extent.to_bytes(), EXTENT)["chunk"][0] == extent.chunk


@pytest.mark.parametrize("few", [1, 5, 1000])
def test_usage_is_complete(filled: Path, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    """Every use of every chunk is returned in order, however many rows are read at a time."""
    monkeypatch.setattr(committed_module, "SCAN_PAGE", few)
    monkeypatch.setattr(Index.scan, "__defaults__", (few,))
    monkeypatch.setattr(usage_module, "SLICE", few)
    monkeypatch.setattr(usage_module, "BLOCK_ROWS", few)
    with Store(filled, read_only=True) as store:
        chunks, reads = read_usage(store.index)
        uses = zip(
            reads.inodes[reads.file].tolist(), chunks.number[reads.chunk].tolist(), strict=True
        )
        assert list(uses) == list(read_in_order(store))
        rows = zip(chunks.number, chunks.address, chunks.stored, strict=True)
        for chunk, address, stored in rows:
            record = store.chunks.record(ChunkId(int(chunk)))
            assert divmod(int(address), PackedChunks.PACK_STEP) == (record.pack, record.offset)
            assert stored == record.stored
        records = list(store.index.pages(Table.CHUNKS))
        lost = [value for _, value in records if value[0] == ChunkKind.LOST]
        dead = list(store.index.pages(Table.DEAD))
        assert len(chunks.number) == len(records) - len(lost) - len(dead)


def test_sources_are_read_with_their_dependants(opened: Store) -> None:
    """The sources of a file's casts are in its read sequence."""
    wide = np.random.default_rng(1).standard_normal((40, 1024)).astype(np.float32)
    first = stored_file(opened, b"wide", save({"w": wide}))
    second = stored_file(opened, b"narrow", save({"w": wide.astype(np.float16)}))
    optimize(opened)
    chunks, reads = read_usage(opened.index)
    used = {
        inode: set(chunks.number[reads.chunk[reads.inodes[reads.file] == inode]].tolist())
        for inode in (first, second)
    }
    derived = {pair_of(key)[0] for key, _ in opened.index.pages(Table.SOURCES)}
    assert derived & used[second]
    assert {pair_of(key)[1] for key, _ in opened.index.pages(Table.SOURCES)} <= used[second]
    uses = zip(reads.inodes[reads.file], chunks.number[reads.chunk], strict=True)
    assert list(uses) == list(read_in_order(opened))


@pytest.mark.parametrize("table", [Table.CHUNKS, Table.EXTENTS, Table.SOURCES])
def test_damaged_rows_are_left_out(filled: Path, tmp_path: Path, table: Table) -> None:
    """A row that does not match its checksum hides the uses that it is needed for, and no other."""
    path = copy_of(filled, tmp_path)
    with Store(path, read_only=True) as store:
        whole = uses_of(store)
    damage_row(path / "index", table)
    with Store(path, read_only=True) as store:
        assert uses_of(store) < whole
