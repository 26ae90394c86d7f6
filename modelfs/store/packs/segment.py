"""Segments: many chunks side by side, the unit in which packs are written.

Inside a segment the chunks' bytes lie next to each other without headers in between, so one read
covers consecutive chunks of a tensor (the unit is that of Rosenblum's and Ousterhout's
log-structured file system, 1992). This module only encodes and decodes; `pack` reads and writes.

Example. Three chunks are appended to a pack at 4,096: 7 and 8, plain, of 1 MiB each, and 9, coded,
of 500 bytes. The head and three entries take 24 + 3 * 40 = 144 bytes. Chunk 7 starts at the next
page, 8,192, and 8 right behind it; 9 follows without a gap. Zeros up to a page end the segment: it
is 4,096 + 2 * 1,048,576 + 4,096 bytes long.

Segment, little-endian::

    offset  type      field
    0       bytes 4   magic    "MSEG"
    4       u32       count    of chunks, at most 1,024
    8       u64       size     of the whole segment, a multiple of 4,096
    16      u64       check    XXH3-64 of bytes 0 to 16 and the entries
    24      entry 40  each     u64 chunk, u64 offset in the pack, u32 stored, u32 size, u8 kind,
                               u8 codec, u16 zero, u32 zero, u64 checksum of the stored bytes
    then the chunks' bytes; plain ones of `ALIGN_FROM` bytes or more start at a multiple of 4,096
"""

import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

import xxhash

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptPack
from modelfs.store.disk.descriptors import IOV_MAX
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.tables import ChunkId

SEGMENT_SIZE: Final = 16 << 20  # bytes of decoded chunks at which a segment is written, or less
PAGE: Final = 4096
# Below this, padding to a page would cost more than 6 % of the chunk.
ALIGN_FROM: Final = 64 << 10
CHUNKS_MAX: Final = IOV_MAX // 2 - 2  # of one segment: a write has two buffers for each

HEAD: Final = struct.Struct("<4sIQQ")
MAGIC: Final = b"MSEG"


@dataclass(frozen=True, slots=True)
class Entry:
    """One chunk in a segment's table: the place, length and form of its stored bytes."""

    chunk: ChunkId
    offset: int
    stored: int
    size: int
    kind: ChunkKind
    codec: CodecId
    checksum: int

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QQIIBB6xQ")

    def to_bytes(self) -> bytes:
        return self.LAYOUT.pack(
            self.chunk, self.offset, self.stored, self.size, self.kind, self.codec, self.checksum
        )

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        """Decode an entry of the table.

        Raises:
            CorruptPack: a kind or codec number that was never assigned.
        """
        chunk, offset, stored, size, kind, codec, checksum = cls.LAYOUT.unpack(value)
        try:
            return cls(
                ChunkId(chunk), offset, stored, size, ChunkKind(kind), CodecId(codec), checksum
            )
        except ValueError as exc:
            raise CorruptPack(f"segment entry {value.hex()}: {exc}") from exc


class Segment:
    """Chunks in memory that the next write appends to a pack."""

    def __init__(self, size_max: int = 1 << 62) -> None:
        """Begin a segment that is full with `size_max` bytes of decoded chunks, if not before."""
        self._size_max = size_max
        self._chunks: list[tuple[ChunkId, ChunkKind, CodecId, int, bytes]] = []
        self.stored = 0  # bytes of the stored forms, without headers and padding
        self.raw = 0  # bytes of the decoded chunks: a writer keeps them to compare with

    def __len__(self) -> int:
        return len(self._chunks)

    @property
    def size_at_most(self) -> int:
        """Bytes of the segment, if every chunk needs a page of padding."""
        return self.stored + (len(self._chunks) + 2) * (PAGE + Entry.LAYOUT.size)

    @property
    def full(self) -> bool:
        return is_full(self.raw, len(self._chunks), self._size_max)

    def add(
        self, chunk: ChunkId, kind: ChunkKind, codec: CodecId, size: int, stored: bytes
    ) -> None:
        """Add a chunk that has `size` bytes when decoded. Its stored bytes are not copied."""
        self._chunks.append((chunk, kind, codec, size, stored))
        self.stored += len(stored)
        self.raw += size

    def layout(self, start: int) -> tuple[list[Entry], list[bytes], int]:
        """Return the entries, the buffers to write at offset `start`, and their total size."""
        table_size = HEAD.size + len(self._chunks) * Entry.LAYOUT.size
        offset = start + table_size
        entries: list[Entry] = []
        buffers: list[bytes] = [b""]
        for chunk, kind, codec, size, stored in self._chunks:
            if gap := padding(offset, kind, len(stored)):
                buffers.append(bytes(gap))
                offset += gap
            checksum = xxhash.xxh3_64_intdigest(stored)
            entries.append(Entry(chunk, offset, len(stored), size, kind, codec, checksum))
            buffers.append(stored)
            offset += len(stored)
        buffers.append(bytes(-offset % PAGE))
        size = offset + len(buffers[-1]) - start
        table = b"".join(entry.to_bytes() for entry in entries)
        head = HEAD.pack(MAGIC, len(entries), size, 0)[:-8]
        check = xxhash.xxh3_64_intdigest(head + table)
        buffers[0] = head + check.to_bytes(8, "little") + table
        return entries, [buffer for buffer in buffers if buffer], size


def is_full(raw: int, count: int, size_max: int) -> bool:
    """Whether a segment of `count` chunks, with `raw` decoded bytes, gets no more chunks."""
    return raw >= min(SEGMENT_SIZE, size_max) or count >= CHUNKS_MAX


def padding(offset: int, kind: ChunkKind, stored: int) -> int:
    """Return the bytes of zeros at `offset` before a chunk of `stored` bytes."""
    return -offset % PAGE if kind is ChunkKind.PLAIN and stored >= ALIGN_FROM else 0


class PackedSize:
    """Counts the bytes that chunks take if they are written one after the other."""

    def __init__(self, segment_size: int = 1 << 62) -> None:
        """Begin with no chunk; a segment is full with so many decoded bytes, if not before."""
        self._segment_size = segment_size
        self._done = 0  # bytes of full segments
        self._chunks: list[tuple[ChunkKind, int]] = []  # with stored bytes
        self._raw = 0

    def add(self, kind: ChunkKind, size: int, stored: int) -> None:
        """Count a chunk of `size` decoded bytes."""
        self._chunks.append((kind, stored))
        self._raw += size
        if is_full(self._raw, len(self._chunks), self._segment_size):
            self._done = self.total
            self._chunks, self._raw = [], 0

    @property
    def total(self) -> int:
        """Bytes of all chunks so far, with tables and padding."""
        if not self._chunks:
            return self._done
        offset = HEAD.size + len(self._chunks) * Entry.LAYOUT.size
        for kind, stored in self._chunks:
            offset += padding(offset, kind, stored) + stored
        return self._done + offset + -offset % PAGE


def decode_head(head: bytes, size_max: int, where: str) -> tuple[int, int]:
    """Return the sizes of a segment and of its table, in bytes.

    Args:
        head: the first `HEAD.size` bytes of the segment.
        size_max: the most bytes that the segment can have.
        where: the segment's place, for messages.

    Raises:
        CorruptPack: these bytes begin no segment.
    """
    magic, count, size, _ = HEAD.unpack(head)
    if magic != MAGIC or not 0 < size <= size_max or size % PAGE:
        raise CorruptPack(f"{where}: no segment begins there")
    table_size = count * Entry.LAYOUT.size
    if count > IOV_MAX or table_size > size:
        raise CorruptPack(f"{where}: table too long")
    return size, table_size


def decode_table(head: bytes, table: bytes, where: str) -> list[Entry]:
    """Return the entries of a segment's table, which follows its head.

    Raises:
        CorruptPack: the head or the table is damaged.
    """
    *_, check = HEAD.unpack(head)
    if xxhash.xxh3_64_intdigest(head[:-8] + table) != check:
        raise CorruptPack(f"{where}: damaged table")
    width = Entry.LAYOUT.size
    return [Entry.from_bytes(table[at : at + width]) for at in range(0, len(table), width)]
