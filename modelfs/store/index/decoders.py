"""The decoders of whole rows, key and value together, by table: `DECODERS`.

A row with a record is decoded by the record's `from_row`. This module has the functions for all
other rows, which have everything in the key, or a number or bytes as value: see the layouts in
`tables`. Each function raises `CorruptIndex` for a row that no modelfs has written.

Lookups decode values alone, by `from_bytes`, because they built the key themselves. With its key an
extent takes 1.4 us in place of 0.7, a name 1.6 in place of 0.5, a chunk 3.4 in place of 3.0.
"""

from collections.abc import Callable
from typing import Final

from modelfs.errors import CorruptIndex
from modelfs.store.index.chunk_records import Chunk, PackRow
from modelfs.store.index.counters import counter_of
from modelfs.store.index.name_records import Dentry, Listed
from modelfs.store.index.records import Extent, Inode, WindowRanges
from modelfs.store.index.superblock import SUPERBLOCK, Superblock
from modelfs.store.index.tables import (
    KEPT,
    ChunkId,
    InodeNumber,
    Table,
    check_size,
    checked_number,
    number_key,
    number_of,
    pair_of,
    sketch_fields,
)
from modelfs.store.index.tensor_records import SketchKind, TensorRow, samples_fit


def decode_meta(key: bytes, value: bytes) -> int | Superblock:
    """Decode a counter's number, or the superblock."""
    return Superblock.from_bytes(value) if key == SUPERBLOCK else counter_of(key, value)


def decode_parent(key: bytes, value: bytes) -> tuple[InodeNumber, InodeNumber, int]:
    """Decode one name of an inode: the inode, the directory of the name, and its cookie."""
    check_size(key, 24)
    inode = checked_number(key[:8])
    check_size(value, 0)
    folder, cookie = pair_of(key[8:])
    return InodeNumber(inode), InodeNumber(folder), cookie


def decode_symlink(key: bytes, value: bytes) -> bytes:
    checked_number(key)
    return value


def decode_xattr(key: bytes, value: bytes) -> bytes:
    checked_number(key[:8])
    if len(key) == 8:
        raise CorruptIndex(f"the key {key.hex()}, which has no name")
    return value


def decode_number(key: bytes, value: bytes) -> int:
    """Decode an inode's u64: where a truncation begins, or when the inode was queued."""
    checked_number(key)
    check_size(value, 8)
    return number_of(value)


def decode_external_data(key: bytes, value: bytes) -> None:
    check_size(value, 0)
    if len(key) < 18 or key[-9] or b"\0" in key[8:-9]:
        raise CorruptIndex(f"the key {key.hex()}")


def decode_copy_hint(key: bytes, value: bytes) -> None:
    check_size(key, 32)
    check_size(value, 0)


def decode_sketch(key: bytes, value: bytes) -> SketchKind:
    number, hashed, inode, _, tag = sketch_fields(key)
    checked_number(number_key(inode))
    try:
        kind = SketchKind(number)
    except ValueError as exc:
        raise CorruptIndex(f"the key {key.hex()}: {exc}") from exc
    if kind is not SketchKind.SAMPLES:
        check_size(value, 8 if kind is SketchKind.ROW else 0)
    elif hashed or tag or not samples_fit(value):
        raise CorruptIndex(f"samples {key.hex()}: {value[:32].hex()}")
    return kind


def decode_hash(key: bytes, value: bytes) -> list[ChunkId]:
    """Decode the chunks whose content has a digest."""
    check_size(key, 16)
    if not value or len(value) % 8:
        raise CorruptIndex(f"a list of chunks of {len(value)} bytes")
    return [ChunkId(number_of(value[at : at + 8])) for at in range(0, len(value), 8)]


def decode_link(key: bytes, value: bytes) -> tuple[ChunkId, ChunkId]:
    """Decode a pair of chunks, of which one derives from the other."""
    check_size(key, 16)
    check_size(value, 0)
    return ChunkId(checked_number(key[:8])), ChunkId(checked_number(key[8:]))


def decode_mark(key: bytes, value: bytes) -> int:
    """Decode the number of an inode or a chunk that is listed."""
    check_size(value, 0)
    return checked_number(key)


def decode_base_only(key: bytes, value: bytes) -> int:
    """Decode the number of a base-only chunk. Its value is empty, or `KEPT`."""
    if value != KEPT:
        check_size(value, 0)
    return checked_number(key)


DECODERS: Final[dict[Table, Callable[[bytes, bytes], object]]] = {
    Table.META: decode_meta,
    Table.INODES: Inode.from_row,
    Table.DENTRIES: Dentry.from_row,
    Table.LISTING: Listed.from_row,
    Table.PARENTS: decode_parent,
    Table.SYMLINKS: decode_symlink,
    Table.XATTRS: decode_xattr,
    Table.EXTENTS: Extent.from_row,
    Table.TRIMS: decode_number,
    Table.TENSORS: TensorRow.from_row,
    Table.EXTERNAL_DATA: decode_external_data,
    Table.COPY_HINTS: decode_copy_hint,
    Table.SKETCHES: decode_sketch,
    Table.CHUNKS: Chunk.from_row,
    Table.HASHES: decode_hash,
    Table.SOURCES: decode_link,
    Table.DEPENDANTS: decode_link,
    Table.DEAD: decode_mark,
    Table.BASE_ONLY: decode_base_only,
    Table.PACKS: PackRow.from_row,
    Table.STAGED: WindowRanges.from_row,
    Table.LOST: WindowRanges.from_row,
    Table.PENDING: decode_number,
    Table.ORPHANS: decode_mark,
    Table.TO_OPTIMIZE: decode_number,
}
