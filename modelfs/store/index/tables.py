"""The index's tables and the layout of their keys.

All numbers in keys are big-endian, so that LMDB's byte order is their numeric order.

===========  =================================  =============================================
table        key                                value
===========  =================================  =============================================
meta         name                               superblock; counters and totals (i64, or longer)
inodes       inode u64                          `Inode`
dentries     parent u64, name                   `Dentry`: inode, cookie
listing      parent u64, cookie u64             `Listed`: inode, name (the order of readdir)
parents      inode u64, parent u64, cookie u64  empty: every name of an inode, for paths
symlinks     inode u64                          target
xattrs       inode u64, name                    value
extents      inode u64, file offset u64         `Extent`: chunk, offset in it, length
trims        inode u64                          u64: the map is hidden from this offset on
tensors      inode u64, start u64, ordinal u32  `TensorRow`
sidecars     folder u64, name, NUL, model u64   empty: the model names that data file
twins        size u64, hash of head, inode u64  empty: a file that may have copies
relatives    kind u8, hash u64, inode u64,      a tensor that is found by that hash: see
             start u64, tag u32                 `SketchKind`
chunks       chunk u64                          `Chunk`
hashes       XXH3-128 of the content            chunk u64, more than one if hashes collide
sources      chunk u64, source u64              empty: the chunk derives from the source
dependants   source u64, chunk u64              empty: the same, the other way round
dead         chunk u64                          empty: nothing needs the chunk; for gc
held         chunk u64                          only chunks that derive from it need it; 01:
                                                it is kept, as they would take more without it
packs        pack u64                           `PackRow`
staged       inode u64, window u64              `WindowRanges`
lost         inode u64, window u64              `WindowRanges`: its ranges that the disk lost
pending      inode u64                          u64: when a pass of ingest was requested, in ns
orphans      inode u64                          empty: no name left; to be removed
unsettled    inode u64                          u64: when optimizing was requested, in ns
===========  =================================  =============================================
"""

import enum
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Final, NewType

from modelfs.errors import CorruptIndex

InodeNumber = NewType("InodeNumber", int)
ChunkId = NewType("ChunkId", int)
PackId = NewType("PackId", int)

ROOT = InodeNumber(1)

_U64 = struct.Struct(">Q")
_PAIR = struct.Struct(">QQ")
_TRIPLE = struct.Struct(">QQQ")
_TENSOR = struct.Struct(">QQI")
_SKETCH = struct.Struct(">BQQQI")

KEY_MAX = (1 << 64) - 1
# Above every number of an inode, a chunk or a pack that was ever allocated.
NUMBER_END: Final = 1 << 62

number_key = _U64.pack
pair_key = _PAIR.pack
triple_key = _TRIPLE.pack
tensor_key = _TENSOR.pack
sketch_key = _SKETCH.pack


class Table(enum.StrEnum):
    """Names of LMDB databases; part of the format."""

    META = "meta"
    INODES = "inodes"
    DENTRIES = "dentries"
    LISTING = "listing"
    PARENTS = "parents"
    SYMLINKS = "symlinks"
    XATTRS = "xattrs"
    EXTENTS = "extents"
    TRIMS = "trims"
    TENSORS = "tensors"
    EXTERNAL_DATA = "sidecars"
    COPY_HINTS = "twins"
    SKETCHES = "relatives"
    CHUNKS = "chunks"
    HASHES = "hashes"
    SOURCES = "sources"
    DEPENDANTS = "dependants"
    DEAD = "dead"
    BASE_ONLY = "held"
    PACKS = "packs"
    STAGED = "staged"
    LOST = "lost"
    PENDING = "pending"
    ORPHANS = "orphans"
    TO_OPTIMIZE = "unsettled"


# In BASE_ONLY: the optimizer found that the dependants would take more without the chunk.
KEPT: Final = b"\x01"

# The format that brought a table, for those that a store of format 1 does not have.
SINCE: Final = {
    Table.SKETCHES: 2,
    Table.SOURCES: 2,
    Table.DEPENDANTS: 2,
    Table.BASE_ONLY: 2,
    Table.TO_OPTIMIZE: 2,
    Table.LOST: 4,
}


def number_of(key: bytes) -> int:
    """Return the u64 that a key or value begins with."""
    return int.from_bytes(key[:8], "big")


def numbers_of(keys: Iterable[bytes]) -> Iterator[int]:
    """Yield the number that each key begins with; keys that are damaged and too short have none."""
    return (number_of(key) for key in keys if len(key) >= 8)


def check_size(data: bytes, size: int) -> None:
    """Check the length of a key, of a part of one, or of a value.

    Raises:
        CorruptIndex: the length is not `size`.
    """
    if len(data) != size:
        raise CorruptIndex(f"{len(data)} bytes where {size} belong: {data[:32].hex()}")


def checked_number(key: bytes) -> int:
    """Return the number of an inode, chunk or pack in a key of 8 bytes, or in such a part of a key.

    Raises:
        CorruptIndex: the key has another length, or no store has allocated that number.
    """
    check_size(key, 8)
    number = number_of(key)
    if not 0 < number < NUMBER_END:
        raise CorruptIndex(f"the number {number}, which was never allocated")
    return number


def pair_of(key: bytes) -> tuple[int, int]:
    """Return the two u64 that a key begins with.

    Raises:
        CorruptIndex: the key is shorter.
    """
    try:
        first, second = _PAIR.unpack_from(key)
    except struct.error as exc:
        raise CorruptIndex(f"a key of {len(key)} bytes: {key.hex()}") from exc
    return first, second


def sketch_fields(key: bytes) -> tuple[int, int, int, int, int]:
    """Return kind, hash, inode, start and tag of a key of `relatives`.

    Raises:
        CorruptIndex: the key has another length.
    """
    try:
        kind, hashed, inode, start, tag = _SKETCH.unpack(key)
    except struct.error as exc:
        raise CorruptIndex(f"a key of {len(key)} bytes: {key[:32].hex()}") from exc
    return kind, hashed, inode, start, tag


def named_key(inode: int, name: bytes) -> bytes:
    return _U64.pack(inode) + name


def external_data_key(folder: int, name: bytes, model: int) -> bytes:
    return _U64.pack(folder) + name + b"\0" + _U64.pack(model)


def request_value() -> bytes:
    """Return a new value for `pending` or `unsettled`: the present time.

    A pass or batch under way has read another value, so it does not remove the row.
    """
    return _U64.pack(time.time_ns())


def prefix_end(prefix: bytes) -> bytes:
    """Return the smallest key above every key that begins with `prefix`."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1])
