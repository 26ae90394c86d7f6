"""The tensor table: name, type, shape and place of each tensor in each file.

Ingest writes the rows of a file; the optimizer, `inspect` and the Python API read them.

Example. `model.safetensors` has tensors "a" (F16, 10 x 10) at byte 100 and "b" (F32, 5) at byte
300: two rows, with starts 100 and 300 and sizes 200 and 20.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from modelfs.formats.layout import Layout, TensorSpan
from modelfs.store.files.inode_totals import add_to_totals
from modelfs.store.index.index import Index
from modelfs.store.index.tables import InodeNumber, Table, pair_key, pair_of, tensor_key
from modelfs.store.index.tensor_records import TensorRow

# The limits of a row's fields. A tensor beyond them is recorded as a vector of bytes.
DIMENSIONS_MAX: Final = 255
NUMBER_MAX: Final = 1 << 64


class TensorTable:
    """The rows of all tensors of all files. Any thread may read."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def spans(self, inode: InodeNumber) -> Iterator[TensorSpan]:
        """Yield a file's tensors, in file order."""
        return (_span(key, value) for key, value in self._rows(inode))

    def has(self, inode: InodeNumber, span: TensorSpan) -> bool:
        """Whether a file has this tensor, at this place and with all other fields equal."""
        low, high = pair_key(inode, span.start), pair_key(inode, span.start + 1)
        rows = self._index.pages(Table.TENSORS, low, high)
        return any(_span(key, value) == span for key, value in rows)

    def find(self, inode: InodeNumber, start: int) -> TensorRow | None:
        """Return the tensor that begins at offset `start` and is not empty, None if none does."""
        low, high = pair_key(inode, start), pair_key(inode, start + 1)
        for _, value in self._index.scan(Table.TENSORS, low, high):
            if (row := TensorRow.from_bytes(start, value)).size:
                return row
        return None

    def changes(self, inode: InodeNumber, layout: Layout) -> list[tuple[bytes, bytes | None]]:
        """Return the changes that give a file the rows of a layout.

        Returns:
            Keys and values to put; the value is None for a key to delete.
        """
        to_put: dict[bytes, bytes] = {}
        for ordinal, span in enumerate(layout.spans):
            row = TensorRow(span.start, span.size, span.dtype, span.shape, span.name)
            if len(span.shape) > DIMENSIONS_MAX or any(size >= NUMBER_MAX for size in span.shape):
                row = TensorRow(span.start, span.size, "U8", (span.size,), span.name)
            to_put[tensor_key(inode, span.start, ordinal)] = row.to_bytes()
        to_delete: list[tuple[bytes, bytes | None]] = []
        for key, value in self._rows(inode):
            if to_put.get(key) == value:
                del to_put[key]
            elif key not in to_put:
                to_delete.append((key, None))
        return [*to_delete, *to_put.items()]

    def change(self, inode: InodeNumber, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Make some of the changes that `changes` returned, inside a change of the index."""
        before = sum(self._index.has(Table.TENSORS, key) for key, _ in changes)
        for key, value in changes:
            if value is None:
                self._index.delete(Table.TENSORS, key)
            else:
                self._index.put(Table.TENSORS, key, value)
        after = sum(value is not None for _, value in changes)
        add_to_totals(self._index, inode, tensor_rows=after - before)

    def _rows(self, inode: InodeNumber) -> Iterator[tuple[bytes, bytes]]:
        return self._index.pages(Table.TENSORS, pair_key(inode, 0), pair_key(inode + 1, 0))


def _span(key: bytes, value: bytes) -> TensorSpan:
    row = TensorRow.from_bytes(pair_of(key)[1], value)
    return TensorSpan(row.name, row.dtype, row.shape, row.start, row.start + row.size)
