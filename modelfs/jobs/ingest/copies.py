"""Likely copies of a file, found by size and first bytes, so that copies are cut alike.

A data file of ONNX weights is cut at its tensors because a model names it. No model names a copy of
it under another name, or one that arrives before its model; cut on the plain grid, such a copy
would share no chunk with the first file. So plain files and data files of models are listed under a
*copy key*: size, and hash of the first 64 KiB. A plain file takes the layout of a data file with
the same key, and when a file gets its layout, plain files with the same key are cut again. Files
with equal keys that differ later on stay correct: any cut is, and chunks are shared by their bytes.

Example. model.onnx names weights.data, 900 MB, which is cut at its tensors. Then weights.data is
copied to backup.data. No model names that, but its copy key is the one of weights.data: it is cut
at the same offsets, and all its chunks are shared.
"""

from collections.abc import Iterator
from typing import Final

import xxhash

from modelfs.formats.layout import Format, Layout, ReadAt
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import (
    InodeNumber,
    Table,
    check_size,
    number_key,
    number_of,
    prefix_end,
    request_value,
)
from modelfs.store.store import Store

# Smaller files are not worth a row.
SIZE_MIN: Final = 64 << 10
HEAD: Final = 64 << 10
# Of more files with one key, only the first are looked up.
COPIES_MAX: Final = 64


def copy_key(read_at: ReadAt, size: int, seed: int) -> bytes | None:
    """Return the key under which likely copies are grouped: size and hash of the first 64 KiB.

    None for files under 64 KiB.
    """
    if size < SIZE_MIN:
        return None
    return size.to_bytes(8, "big") + xxhash.xxh3_128_digest(read_at(0, HEAD), seed)


class CopyHints:
    """The table of copy keys. Reading is for any thread."""

    table: Final = Table.COPY_HINTS

    def __init__(self, store: Store) -> None:
        self._index = store.index
        self._inodes = store.inodes
        self._tensors = TensorTable(store.index)

    def layout_under(self, key: bytes) -> Layout | None:
        """Return the layout of a data file with that copy key, None if there is none."""
        for node in self._with_key(key):
            if node.format is Format.ONNX_DATA:
                return Layout(Format.ONNX_DATA, tuple(self._tensors.spans(node.inode)))
        return None

    def record(self, inode: InodeNumber, key: bytes, recognised: Format) -> None:
        """List a file; if it is a data file, request another ingest of plain files with its key."""
        self._index.put(Table.COPY_HINTS, key + number_key(inode), b"")
        if recognised is Format.ONNX_DATA:
            for node in self._with_key(key):
                if node.format is Format.PLAIN and node.inode != inode:
                    self._index.put(Table.PENDING, number_key(node.inode), request_value())

    def is_stale(self, key: bytes) -> bool:
        """Whether the file of a row is gone, or has another size or a format of its own."""
        return self._node(key) is None

    def _with_key(self, key: bytes) -> Iterator[Inode]:
        rows = self._index.scan(Table.COPY_HINTS, key, prefix_end(key), COPIES_MAX, damaged=set())
        for row_key, _ in rows:
            if (node := self._node(row_key)) is not None:
                yield node

    def _node(self, key: bytes) -> Inode | None:
        """Return the file of a row: copy key, inode u64. None if it is gone or has changed.

        Raises:
            CorruptIndex: the key has another length.
        """
        check_size(key, 32)
        node = self._inodes.find(InodeNumber(number_of(key[24:])))
        if node is None or node.size != number_of(key):
            return None
        return node if node.format in (Format.PLAIN, Format.ONNX_DATA) else None
