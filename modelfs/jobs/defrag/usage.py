"""The chunks that each file reads, as arrays, from a walk over the index. Any thread.

The walk reads the index in slices, and the index may change in between. So the rows of one table
need not agree with those of another: rows that refer to a missing chunk are left out, and a job
that acts on the arrays looks its chunks up again. Damaged rows are left out, too, as `fsck` reports
them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from modelfs.jobs.defrag.order import BLOCK_ROWS, Numbers, PackedChunks, ReadSequence, Rows
from modelfs.store.chunks.lineage import CHAIN_MAX
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.index import Index
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import Table

# The fields of `Chunk` that are needed here, and that of `Extent`. `Chunk.LAYOUT` is the authority;
# a test holds that the columns are the record's fields.
CHUNK: Final = np.dtype(
    {
        "names": ["kind", "pack", "offset", "stored", "refs", "dependants"],
        "formats": ["u1", "<u8", "<u8", "<u4", "<u4", "<u4"],
        "offsets": [0, 8, 16, 24, 28, 64],
        "itemsize": Chunk.LAYOUT.size,
    }
)
EXTENT: Final = np.dtype({"names": ["chunk"], "formats": ["<u8"], "itemsize": Extent.LAYOUT.size})
NUMBER: Final = np.dtype([("first", ">u8")])
PAIR: Final = np.dtype([("first", ">u8"), ("second", ">u8")])
NOTHING: Final = np.dtype([])
SLICE: Final = 1000  # rows

Columns = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class _Sources:
    """The sources of each chunk: of row n, `source[start[n] : start[n + 1]]`."""

    start: Numbers
    source: Rows

    @classmethod
    def from_index(cls, index: Index, chunks: PackedChunks) -> Self:
        starts = np.zeros(len(chunks.number) + 1, np.int64)
        sources = [np.zeros(0, np.int32)]
        for keys, _ in _slices(index, Table.SOURCES, PAIR, NOTHING):
            chunk, has_chunk = chunks.rows_of(_int64(keys["first"]))
            source, has_source = chunks.rows_of(_int64(keys["second"]))
            both = has_chunk & has_source
            np.add.at(starts, chunk[both] + 1, 1)
            sources.append(source[both])
        return cls(np.cumsum(starts), np.concatenate(sources))

    def of(self, chunk: Rows) -> tuple[Numbers, Rows]:
        """Return all sources of chunks, with the position in `chunk` that each is a source of."""
        start = self.start[chunk]
        count = self.start[chunk + 1] - start
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        source = self.source[np.repeat(start, count) + within]
        return np.repeat(np.arange(len(chunk)), count), source


def read_usage(index: Index) -> tuple[PackedChunks, ReadSequence]:
    """Return the chunks in use, and the sequence in which files read them. Any thread."""
    chunks = _read_chunks(index)
    sources = _Sources.from_index(index, chunks)
    inodes: list[Numbers] = []
    files: list[Rows] = []
    rows: list[Rows] = []
    count = 0
    for inode, number in _extents(index):
        block_inodes, file = np.unique(inode, return_inverse=True)
        chunk, is_packed = chunks.rows_of(number)
        file, chunk = _with_sources(file[is_packed], chunk[is_packed], sources)
        inodes.append(block_inodes)
        files.append((file + count).astype(np.int32))
        rows.append(chunk)
        count += len(block_inodes)
    none = np.zeros(0, np.int32)
    return chunks, ReadSequence(
        np.concatenate([*inodes, none.astype(np.int64)]),
        np.concatenate([*files, none]),
        np.concatenate([*rows, none]),
    )


def _read_chunks(index: Index) -> PackedChunks:
    empty = np.zeros(0, np.int64)
    parts = [(empty, empty, empty)]
    for keys, values in _slices(index, Table.CHUNKS, NUMBER, CHUNK, size_min=Chunk.LENGTH_1):
        pack, offset = values["pack"], values["offset"]
        in_use = (values["refs"] > 0) | (values["dependants"] > 0)
        in_use &= values["kind"] != ChunkKind.LOST
        # Only a damaged record of formats 1 to 3, without a checksum, has a place beyond these.
        in_use &= (pack < 1 << 22) & (offset < PackedChunks.PACK_STEP)
        numbers, columns = keys["first"][in_use], values[in_use]
        address = columns["pack"] * np.uint64(PackedChunks.PACK_STEP) + columns["offset"]
        parts.append((_int64(numbers), _int64(address), _int64(columns["stored"])))
    return PackedChunks(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _extents(index: Index) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield inode and chunk number of each extent in order, for a block of whole files at a time.

    Blocks have `BLOCK_ROWS` extents or more, the last one excepted.
    """
    inode = chunk = np.zeros(0, np.int64)
    parts = [(inode, chunk)]
    count = 0
    for keys, values in _slices(index, Table.EXTENTS, PAIR, EXTENT):
        parts.append((_int64(keys["first"]), _int64(values["chunk"])))
        count += len(keys)
        if count < BLOCK_ROWS:
            continue
        inode, chunk = (np.concatenate(part) for part in zip(*parts, strict=True))
        last = int(np.searchsorted(inode, inode[-1]))
        yield inode[:last], chunk[:last]
        parts = [(inode[last:], chunk[last:])]
        count = 0  # not of the rest: a file of many blocks is then not concatenated at each slice
    inode, chunk = (np.concatenate(part) for part in zip(*parts, strict=True))
    yield inode, chunk


def _with_sources(file: Numbers, chunk: Rows, sources: _Sources) -> tuple[Numbers, Rows]:
    """Return the rows, each followed by its sources and theirs, with each chunk of a file once."""
    row = np.arange(len(chunk))
    levels = [(row, chunk)]
    while len(row) and len(levels) <= CHAIN_MAX:
        dependant, source = sources.of(levels[-1][1])
        row = row[dependant]
        levels.append((row, source))
    row, chunk = (np.concatenate(part) for part in zip(*levels, strict=True))
    as_read = np.argsort(row, kind="stable")
    file, chunk = file[row[as_read]], chunk[as_read]
    _, first = np.unique(file << 32 | chunk, return_index=True)
    first.sort()
    return file[first], chunk[first]


def _slices(
    index: Index, table: Table, key: np.dtype[np.void], value: np.dtype[np.void], size_min: int = 0
) -> Iterator[tuple[Columns, Columns]]:
    """Yield a table's keys and values, many rows at a time.

    Damaged rows, and those of other lengths, are left out. Values of `size_min` bytes or more are
    filled up with zeros.
    """
    low, high = size_min or value.itemsize, value.itemsize
    undamaged = index.pages(table, damaged=set())
    while rows := list(islice(undamaged, SLICE)):
        valid = [(k, v) for k, v in rows if len(k) == key.itemsize and low <= len(v) <= high]
        keys = np.frombuffer(b"".join(k for k, _ in valid), key)
        values = b"".join(v.ljust(high, b"\0") for _, v in valid)
        yield keys, np.frombuffer(values, value) if high else np.zeros(len(valid), value)


def _int64(column: npt.NDArray[np.unsignedinteger]) -> Numbers:
    return column.astype(np.int64)
