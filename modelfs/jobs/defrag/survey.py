"""Which chunks each file is read from, as arrays: a walk over the index for `store.packing`.

Any thread may walk, in slices, while the index changes. So what it finds need not fit together to
the last row; rows that do not are passed over, and whoever acts on it looks again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modelfs.jobs.defrag.order import BLOCK_ROWS, Flags, Numbers, Places, Reads, Rows
from modelfs.store.chunks.lineage import CHAIN_MAX
from modelfs.store.index.index import KEY_END, SCAN_PAGE, Index
from modelfs.store.index.records import Chunk, ChunkKind, Extent
from modelfs.store.index.tables import Table

# The fields of `Chunk` that matter here, and that of `Extent`.
CHUNK: Final = np.dtype(
    {
        "names": ["kind", "pack", "offset", "stored", "uses", "pins"],
        "formats": ["u1", "<u8", "<u8", "<u4", "<u4", "<u4"],
        "offsets": [0, 8, 16, 24, 28, 64],
        "itemsize": Chunk.LAYOUT.size,
    }
)
EXTENT: Final = np.dtype({"names": ["chunk"], "formats": ["<u8"], "itemsize": Extent.LAYOUT.size})
NUMBER: Final = np.dtype([("first", ">u8")])
PAIR: Final = np.dtype([("first", ">u8"), ("second", ">u8")])
NOTHING: Final = np.dtype([])

Columns = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class _Sources:
    """What each chunk derives from: of row n, `source[start[n] : start[n + 1]]`."""

    start: Numbers
    source: Rows


def read_usage(index: Index) -> tuple[Places, Reads]:
    """Return where all chunks that are needed lie, and how files use them. Any thread."""
    places = _read_places(index)
    sources = _read_sources(index, places)
    inodes: list[Numbers] = []
    files: list[Rows] = []
    rows: list[Rows] = []
    before = 0
    for inode, chunk in _files(index):
        known, file = np.unique(inode, return_inverse=True)
        place, is_known = _rows_of(places, chunk)
        some, read = _reads(file[is_known], place[is_known], sources)
        inodes.append(known)
        files.append((some + before).astype(np.int32))
        rows.append(read)
        before += len(known)
    none = np.zeros(0, np.int32)
    return places, Reads(
        np.concatenate([*inodes, none.astype(np.int64)]),
        np.concatenate([*files, none]),
        np.concatenate([*rows, none]),
    )


def _read_places(index: Index) -> Places:
    empty = np.zeros(0, np.int64)
    parts = [(empty, empty, empty)]
    for keys, values in _slices(index, Table.CHUNKS, NUMBER, CHUNK, shortest=Chunk.LENGTH_1):
        pack, offset = values["pack"], values["offset"]
        wanted = (values["uses"] > 0) | (values["pins"] > 0)
        wanted &= values["kind"] != ChunkKind.LOST
        # None but a damaged record says that a chunk lies further out.
        wanted &= (pack < 1 << 22) & (offset < Places.PACK_STEP)
        some, columns = keys[wanted], values[wanted]
        address = columns["pack"] * np.uint64(Places.PACK_STEP) + columns["offset"]
        parts.append((_numbers(some["first"]), _numbers(address), _numbers(columns["stored"])))
    return Places(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _read_sources(index: Index, places: Places) -> _Sources:
    starts = np.zeros(len(places.chunk) + 1, np.int64)
    found = [np.zeros(0, np.int32)]
    for keys, _ in _slices(index, Table.SOURCES, PAIR, NOTHING):
        chunk, known = _rows_of(places, _numbers(keys["first"]))
        source, fine = _rows_of(places, _numbers(keys["second"]))
        fine &= known
        np.add.at(starts, chunk[fine] + 1, 1)
        found.append(source[fine])
    return _Sources(np.cumsum(starts), np.concatenate(found))


def _files(index: Index) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield inode and chunk of each extent, in order, of many whole files at a time."""
    inode = chunk = np.zeros(0, np.int64)
    parts = [(inode, chunk)]
    count = 0
    for keys, values in _slices(index, Table.EXTENTS, PAIR, EXTENT):
        parts.append((_numbers(keys["first"]), _numbers(values["chunk"])))
        count += len(keys)
        if count < BLOCK_ROWS:
            continue
        inode, chunk = (np.concatenate(part) for part in zip(*parts, strict=True))
        last = int(np.searchsorted(inode, inode[-1]))
        yield inode[:last], chunk[:last]
        parts = [(inode[last:], chunk[last:])]
        count = 0  # so that a file of many blocks is not put together for each slice
    inode, chunk = (np.concatenate(part) for part in zip(*parts, strict=True))
    yield inode, chunk


def _reads(file: Numbers, place: Rows, sources: _Sources) -> tuple[Numbers, Rows]:
    """Return the rows, each followed by what it derives from, and each chunk of a file once."""
    row = np.arange(len(place))
    levels = [(row, place)]
    while len(place) and len(levels) <= CHAIN_MAX:
        row, place = _below(row, place, sources)
        levels.append((row, place))
    row, place = (np.concatenate(part) for part in zip(*levels, strict=True))
    as_read = np.argsort(row, kind="stable")
    file, place = file[row[as_read]], place[as_read]
    _, first = np.unique(file << 32 | place, return_index=True)
    first.sort()
    return file[first], place[first]


def _below(row: Numbers, place: Rows, sources: _Sources) -> tuple[Numbers, Rows]:
    start = sources.start[place]
    count = sources.start[place + 1] - start
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(row, count), sources.source[np.repeat(start, count) + within]


def _rows_of(places: Places, chunk: Numbers) -> tuple[Rows, Flags]:
    """Return in which rows these chunks are, and which of them are there at all."""
    if not len(places.chunk):
        return np.zeros(len(chunk), np.int32), np.zeros(len(chunk), np.bool_)
    row = np.searchsorted(places.chunk, chunk).clip(max=len(places.chunk) - 1)
    return row.astype(np.int32), places.chunk[row] == chunk


def _slices(
    index: Index, table: Table, key: np.dtype[np.void], value: np.dtype[np.void], shortest: int = 0
) -> Iterator[tuple[Columns, Columns]]:
    """Yield a table's rows, many at a time; shorter values have zeros at their end."""
    least, longest = shortest or value.itemsize, value.itemsize
    rows = index.scan(table, b"", KEY_END)
    while rows:
        fine = [(k, v) for k, v in rows if len(k) == key.itemsize and least <= len(v) <= longest]
        keys = b"".join(k for k, _ in fine)
        values = b"".join(v.ljust(longest, b"\0") for _, v in fine)
        yield np.frombuffer(keys, key), _columns(values, value, len(fine))
        if len(rows) < SCAN_PAGE:
            return
        rows = index.scan(table, rows[-1][0] + b"\0", KEY_END)


def _columns(rows: bytes, of: np.dtype[np.void], count: int) -> Columns:
    return np.frombuffer(rows, of) if of.itemsize else np.zeros(count, of)


def _numbers(column: npt.NDArray[np.unsignedinteger]) -> Numbers:
    return column.astype(np.int64)
