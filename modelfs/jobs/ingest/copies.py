"""Files that look like copies of one another, so that copies are cut alike.

A data file of ONNX weights is cut at its tensors because a model names it. A copy of it under
another name, or one that arrives before its model, is named by nobody, would be cut on the plain
grid, and would share nothing with the first. So plain files and such data files are listed by size
and by a hash of their beginning. A plain file takes the cut of a twin that has a better one, and
plain twins are cut anew when one of them gets it. If the rest of the files differs, no harm is
done: any cut is right, and sharing compares bytes.
"""

import struct
from collections.abc import Iterator
from typing import Final

import xxhash

from modelfs.formats.layout import Format, Layout, ReadAt
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import (
    InodeNumber,
    Table,
    number_key,
    prefix_end,
    request_value,
)
from modelfs.store.store import Store

# Smaller files are not worth a row.
SIZE_MIN: Final = 64 << 10
HEAD: Final = 64 << 10
# Of more copies than this, only the first are looked at.
COPIES_MAX: Final = 64

_KEY = struct.Struct(">Q16sQ")


def copy_key(read_at: ReadAt, size: int, seed: int) -> bytes | None:
    """Return the key under which likely copies are grouped: size and hash of the first 64 KiB.

    None for files under 64 KiB.
    """
    if size < SIZE_MIN:
        return None
    return size.to_bytes(8, "big") + xxhash.xxh3_128_digest(read_at(0, HEAD), seed)


class CopyHints:
    """Which files look like copies of each other. Reading is for any thread."""

    TABLE: Final = Table.COPY_HINTS

    def __init__(self, store: Store) -> None:
        self._index = store.index
        self._inodes = store.inodes
        self._tensors = TensorTable(store.index)

    def layout_of(self, key: bytes) -> Layout | None:
        """Return the layout of a file with that key, if one has a layout better than plain."""
        for node in self._with_key(key):
            if node.format is Format.ONNX_DATA:
                return Layout(Format.ONNX_DATA, tuple(self._tensors.spans(node.inode)))
        return None

    def record(self, inode: InodeNumber, key: bytes, recognised: Format) -> None:
        """List a file, and let its plain copies be cut anew if it has a better layout."""
        self._index.put(Table.COPY_HINTS, key + number_key(inode), b"")
        if recognised is Format.ONNX_DATA:
            for node in self._with_key(key):
                if node.format is Format.PLAIN and node.inode != inode:
                    self._index.put(Table.PENDING, number_key(node.inode), request_value())

    def is_stale(self, key: bytes) -> bool:
        """Whether a row is of a file that is gone, or looks different."""
        size, _, inode = _KEY.unpack(key)
        return self._node(InodeNumber(inode), size) is None

    def _with_key(self, key: bytes) -> Iterator[Inode]:
        rows = self._index.scan(Table.COPY_HINTS, key, prefix_end(key), COPIES_MAX)
        for row_key, _ in rows:
            size, _, inode = _KEY.unpack(row_key)
            if (node := self._node(InodeNumber(inode), size)) is not None:
                yield node

    def _node(self, inode: InodeNumber, size: int) -> Inode | None:
        node = self._inodes.find(inode)
        listed = (Format.PLAIN, Format.ONNX_DATA)
        return node if node is not None and node.size == size and node.format in listed else None
