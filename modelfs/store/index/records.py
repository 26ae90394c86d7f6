"""The records of inodes and their content: values of the index in little-endian layouts.

The record's docstring specifies the layout. Decoding validates: bytes that no modelfs can have
written raise `CorruptIndex`. The records of names are in `name_records`, those of chunks and packs
in `chunk_records`, those of tensors in `tensor_records`; the store's own is in `superblock`.

Example. A file of 9 bytes has these rows, if its inode is 2, its first five bytes are in chunk 7,
and a program has written the others since, to the staging file 12 of the file's first window::

    inodes   2     Inode: mode 100644, size 9, nlink 1, ...
    extents  2, 0  Extent: chunk 7, skip 0, length 5
    staged   2, 0  WindowRanges: generation 12, 5 to 9
"""

import stat
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Final, Self

from modelfs.errors import CorruptIndex
from modelfs.formats.layout import Format
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.tables import (
    ChunkId,
    InodeNumber,
    check_size,
    checked_number,
    number_of,
)

# The kernel's own limit for a file's size.
SIZE_MAX: Final = (1 << 63) - 1
FILE_TYPES: Final = frozenset(
    {
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
        stat.S_IFCHR,
        stat.S_IFBLK,
    }
)


@dataclass(frozen=True, slots=True)
class Inode:
    """A file, directory or other node.

    Value layout, 88 bytes (formats 1 to 3: the first 80)::

        offset  type  field
        0       u32   mode      type and permission bits, as in st_mode
        4       u32   uid
        8       u32   gid
        12      u32   nlink     0: an orphan, kept while it is open
        16      u64   size      bytes
        24      u64   rdev      device number of a device node
        32      i64   atime_ns  since the epoch; changed by utimens only
        40      i64   mtime_ns
        48      i64   ctime_ns
        56      u64   parent    of a directory; 0 if it was removed, and for all other inodes
        64      u16   format    `Format` its content was recognised as
        66      -     zero
        68      u32   staging_rows  its rows in `staged`, `lost` and `trims`; checksums
        72      u64   mapped    bytes of its extents
        80      u32   xattr_rows    its extended attributes
        84      u32   tensor_rows   its rows in `tensors`

    The last four are totals, zero before format 4: see `files.inode_totals`.
    """

    inode: InodeNumber
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    rdev: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    parent: InodeNumber
    format: Format
    staging_rows: int = 0
    mapped: int = 0
    xattr_rows: int = 0
    tensor_rows: int = 0

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIIIQQqqqQH2xIQII")
    LENGTH_3: ClassVar[int] = 80

    def to_bytes(self) -> bytes:
        return self.LAYOUT.pack(
            self.mode,
            self.uid,
            self.gid,
            self.nlink,
            self.size,
            self.rdev,
            self.atime_ns,
            self.mtime_ns,
            self.ctime_ns,
            self.parent,
            self.format,
            self.staging_rows,
            self.mapped,
            self.xattr_rows,
            self.tensor_rows,
        )

    @classmethod
    def from_bytes(cls, inode: int, value: bytes) -> Self:
        """Decode the value stored under `inode`.

        Raises:
            CorruptIndex: wrong length, or an unknown format number.
        """
        if len(value) == cls.LENGTH_3:
            value = value.ljust(cls.LAYOUT.size, b"\0")
        try:
            *fields, parent, number, rows, mapped, xattrs, tensors = cls.LAYOUT.unpack(value)
            return cls(
                InodeNumber(inode),
                *fields,
                InodeNumber(parent),
                Format(number),
                rows,
                mapped,
                xattrs,
                tensors,
            )  # type: ignore[call-arg]
        except (struct.error, ValueError) as exc:
            raise CorruptIndex(f"inode {inode}: {exc}") from exc

    @classmethod
    def from_row(cls, key: bytes, value: bytes) -> Self:
        """Decode a row of the table `inodes`.

        Raises:
            CorruptIndex: no inode has that key, see `from_bytes`, or a mode or size that no file
                can have.
        """
        node = cls.from_bytes(checked_number(key), value)
        if stat.S_IFMT(node.mode) not in FILE_TYPES or node.size > SIZE_MAX:
            raise CorruptIndex(f"inode {node.inode}: mode {node.mode:o}, size {node.size}")
        return node


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of file bytes inside one chunk.

    Value layout, 16 bytes::

        offset  type  field
        0       u64   chunk
        8       u32   skip    bytes of the chunk before the run
        12      u32   length  bytes, at least 1
    """

    start: int  # bytes from the start of the file; part of the key
    chunk: ChunkId
    skip: int
    length: int

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QII")

    @property
    def stop(self) -> int:
        return self.start + self.length

    def to_bytes(self) -> bytes:
        return self.LAYOUT.pack(self.chunk, self.skip, self.length)

    @classmethod
    def from_bytes(cls, start: int, value: bytes) -> Self:
        try:
            chunk, skip, length = cls.LAYOUT.unpack(value)
        except struct.error as exc:
            raise CorruptIndex(f"extent {value.hex()}: {exc}") from exc
        if not length:
            raise CorruptIndex(f"extent {value.hex()}: no length")
        return cls(start, ChunkId(chunk), skip, length)

    @classmethod
    def from_row(cls, key: bytes, value: bytes) -> Self:
        """Decode a row of the table `extents`.

        Raises:
            CorruptIndex: the key is no inode and an offset, see `from_bytes`, or it ends behind
                every file.
        """
        check_size(key, 16)
        checked_number(key[:8])
        extent = cls.from_bytes(number_of(key[8:]), value)
        if extent.stop > SIZE_MAX:
            raise CorruptIndex(f"extent {key.hex()}: it ends at {extent.stop}")
        return extent

    def part(self, start: int, stop: int) -> Self:
        """Return the run's part inside `[start, stop)`, offsets in the file."""
        start, stop = max(start, self.start), min(stop, self.stop)
        return type(self)(start, self.chunk, self.skip + start - self.start, stop - start)


@dataclass(frozen=True, slots=True)
class WindowRanges:
    """Bytes of one window of a file: those in its staging file, or those that the disk has lost.

    Value layout: u64 generation (part of the staging file's name), then for each range u64
    start, u64 stop, in bytes from the start of the file.
    """

    generation: int
    ranges: RangeSet

    def is_part_of(self, other: "WindowRanges") -> bool:
        """Whether the ranges are parts of another row's, for the same staging file."""
        is_same_file = self.generation == other.generation
        return is_same_file and other.ranges.common(self.ranges) == self.ranges

    def to_bytes(self) -> bytes:
        flat = [number for pair in self.ranges for number in pair]
        return struct.pack(f"<{1 + len(flat)}Q", self.generation, *flat)

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        """Decode an index value.

        Raises:
            CorruptIndex: odd length, or ranges out of order.
        """
        if len(value) % 16 != 8:
            raise CorruptIndex(f"staged window of {len(value)} bytes")
        generation, *flat = struct.unpack(f"<{len(value) // 8}Q", value)
        if any(low >= high for low, high in pairwise(flat)):
            raise CorruptIndex("staged window: ranges out of order")
        return cls(generation, RangeSet(zip(flat[::2], flat[1::2], strict=True)))

    @staticmethod
    def generation_of(value: bytes) -> int:
        """Return the generation of an index value, whose ranges may be many."""
        return int.from_bytes(value[:8], "little")

    @classmethod
    def from_row(cls, key: bytes, value: bytes) -> Self:
        """Decode a row of the table `staged` or `lost`.

        Raises:
            CorruptIndex: the key is no inode and a window, or see `from_bytes`.
        """
        check_size(key, 16)
        checked_number(key[:8])
        return cls.from_bytes(value)
