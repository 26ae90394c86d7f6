"""Whole rows of the index, key and value: how each table's decode.

Each function raises `CorruptIndex` for a row that no modelfs has written.
"""

import stat
from collections.abc import Callable
from typing import Final

from modelfs.errors import CorruptIndex
from modelfs.store.files.namespace import NAME_MAX
from modelfs.store.files.writes import SIZE_MAX
from modelfs.store.folder import SUPERBLOCK
from modelfs.store.index.chunk_records import OFFSET_END, Chunk, PackRow
from modelfs.store.index.counters import counter_of
from modelfs.store.index.records import (
    Dentry,
    Extent,
    Inode,
    Listed,
    SketchKind,
    StagedWindow,
    Superblock,
    TensorRow,
    samples_fit,
)
from modelfs.store.index.tables import ChunkId, Table, number_key, number_of, pair_of, relative_of

TYPES: Final = frozenset(
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


def decode_inode(key: bytes, value: bytes) -> Inode:
    node = Inode.from_bytes(_handed_out(key), value)
    if stat.S_IFMT(node.mode) not in TYPES or node.size > SIZE_MAX:
        raise CorruptIndex(f"inode {node.inode}: mode {node.mode:o}, size {node.size}")
    return node


def decode_dentry(key: bytes, value: bytes) -> Dentry:
    _named(key)
    _name(key[8:])
    return Dentry.from_bytes(value)


def decode_listed(key: bytes, value: bytes) -> Listed:
    _sized(key, 16)
    _handed_out(key[:8])
    line = Listed.from_bytes(value)
    _name(line.name)
    return line


def decode_parent(key: bytes, value: bytes) -> tuple[int, int, int]:
    _sized(key, 24)
    _handed_out(key[:8])
    _empty(value)
    return number_of(key), *pair_of(key[8:])


def decode_chunk(key: bytes, value: bytes) -> Chunk:
    _handed_out(key)
    return Chunk.from_bytes(value)


def decode_extent(key: bytes, value: bytes) -> Extent:
    _sized(key, 16)
    _handed_out(key[:8])
    extent = Extent.from_bytes(pair_of(key)[1], value)
    if extent.stop > SIZE_MAX:
        raise CorruptIndex(f"extent {key.hex()}: it ends at {extent.stop}")
    return extent


def decode_tensor(key: bytes, value: bytes) -> TensorRow:
    _sized(key, 20)
    _handed_out(key[:8])
    return TensorRow.from_bytes(pair_of(key)[1], value)


def decode_pack(key: bytes, value: bytes) -> PackRow:
    _handed_out(key)
    row = PackRow.from_bytes(value)
    if row.stop >= OFFSET_END:
        raise CorruptIndex(f"pack row {value.hex()}")
    return row


def decode_window(key: bytes, value: bytes) -> StagedWindow:
    _sized(key, 16)
    _handed_out(key[:8])
    return StagedWindow.from_bytes(value)


def decode_trim(key: bytes, value: bytes) -> int:
    _handed_out(key)
    return _number(value)


def decode_hash(key: bytes, value: bytes) -> list[ChunkId]:
    _sized(key, 16)
    if not value or len(value) % 8:
        raise CorruptIndex(f"a list of chunks of {len(value)} bytes")
    return [ChunkId(number_of(value[at : at + 8])) for at in range(0, len(value), 8)]


def decode_mark(key: bytes, value: bytes) -> int:
    """Decode a row whose being there is all it says."""
    _empty(value)
    return _handed_out(key)


def decode_link(key: bytes, value: bytes) -> tuple[ChunkId, ChunkId]:
    """Decode a row that says that one chunk derives from another."""
    _sized(key, 16)
    _empty(value)
    _handed_out(key[:8])
    _handed_out(key[8:])
    one, other = pair_of(key)
    return ChunkId(one), ChunkId(other)


def decode_symlink(key: bytes, value: bytes) -> bytes:
    _handed_out(key)
    return value


def decode_xattr(key: bytes, value: bytes) -> bytes:
    _named(key)
    return value


def decode_sidecar(key: bytes, value: bytes) -> None:
    _empty(value)
    if len(key) < 18 or key[-9] or b"\0" in key[8:-9]:
        raise CorruptIndex(f"the key {key.hex()}")


def decode_twin(key: bytes, value: bytes) -> None:
    _sized(key, 32)
    _empty(value)


def decode_relative(key: bytes, value: bytes) -> SketchKind:
    number, hashed, inode, _, tag = relative_of(key)
    _handed_out(number_key(inode))
    try:
        kind = SketchKind(number)
    except ValueError as exc:
        raise CorruptIndex(f"the key {key.hex()}: {exc}") from exc
    if kind is not SketchKind.SAMPLES:
        _sized(value, 8 if kind is SketchKind.ROW else 0)
    elif hashed or tag or not samples_fit(value):
        raise CorruptIndex(f"samples {key.hex()}: {value[:32].hex()}")
    return kind


def decode_meta(key: bytes, value: bytes) -> int | None:
    """Decode a counter's or a total's value; None is the superblock's."""
    if key == SUPERBLOCK:
        Superblock.from_bytes(value)
        return None
    return counter_of(key, value)


DECODERS: Final[dict[Table, Callable[[bytes, bytes], object]]] = {
    Table.META: decode_meta,
    Table.INODES: decode_inode,
    Table.DENTRIES: decode_dentry,
    Table.LISTING: decode_listed,
    Table.PARENTS: decode_parent,
    Table.SYMLINKS: decode_symlink,
    Table.XATTRS: decode_xattr,
    Table.EXTENTS: decode_extent,
    Table.TRIMS: decode_trim,
    Table.TENSORS: decode_tensor,
    Table.EXTERNAL_DATA: decode_sidecar,
    Table.COPY_HINTS: decode_twin,
    Table.SKETCHES: decode_relative,
    Table.CHUNKS: decode_chunk,
    Table.HASHES: decode_hash,
    Table.SOURCES: decode_link,
    Table.DEPENDANTS: decode_link,
    Table.DEAD: decode_mark,
    Table.BASE_ONLY: decode_mark,
    Table.PACKS: decode_pack,
    Table.STAGED: decode_window,
    Table.PENDING: decode_trim,
    Table.ORPHANS: decode_mark,
    Table.TO_OPTIMIZE: decode_trim,
}


def _sized(value: bytes, size: int) -> None:
    if len(value) != size:
        raise CorruptIndex(f"{len(value)} bytes where {size} belong: {value[:32].hex()}")


def _empty(value: bytes) -> None:
    _sized(value, 0)


def _number(value: bytes) -> int:
    _sized(value, 8)
    return number_of(value)


def _handed_out(value: bytes) -> int:
    number = _number(value)
    if not 0 < number < OFFSET_END:
        raise CorruptIndex(f"the number {number}, which was never handed out")
    return number


def _name(name: bytes) -> None:
    if len(name) > NAME_MAX or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise CorruptIndex(f"the name {name!r}")


def _named(key: bytes) -> None:
    if len(key) < 9:
        raise CorruptIndex(f"a key of {len(key)} bytes: {key.hex()}")
    _handed_out(key[:8])
