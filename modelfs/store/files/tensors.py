"""The tensor tables of files, as `inspect` and fsck show them."""

from collections.abc import Iterator
from typing import Final

from modelfs.formats.layout import Layout, TensorSpan
from modelfs.store.index.index import Index
from modelfs.store.index.records import TensorRow
from modelfs.store.index.tables import InodeNumber, Table, pair_key, pair_of, tensor_key

# What a row can say; a tensor beyond that is listed as bytes.
DIMENSIONS_MAX: Final = 255
NUMBER_MAX: Final = 1 << 64


class TensorTable:
    """The rows of every file's tensors. Reading is for any thread."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def spans(self, inode: InodeNumber) -> Iterator[TensorSpan]:
        """Yield a file's tensors, in file order."""
        for key, value in self._rows(inode):
            row = TensorRow.from_bytes(pair_of(key)[1], value)
            yield TensorSpan(row.name, row.dtype, row.shape, row.start, row.start + row.size)

    def find(self, inode: InodeNumber, start: int) -> TensorRow | None:
        """Return the tensor that begins there; None if there is none that has bytes."""
        low, high = pair_key(inode, start), pair_key(inode, start + 1)
        for _, value in self._index.scan(Table.TENSORS, low, high):
            if (row := TensorRow.from_bytes(start, value)).size:
                return row
        return None

    def changes(self, inode: InodeNumber, layout: Layout) -> list[tuple[bytes, bytes | None]]:
        """Return the rows to put, or with None to delete, for a file to have that layout."""
        wanted = {
            tensor_key(inode, span.start, ordinal): _row(span).to_bytes()
            for ordinal, span in enumerate(layout.spans)
        }
        gone: list[tuple[bytes, bytes | None]] = []
        for key, value in self._rows(inode):
            if wanted.get(key) == value:
                del wanted[key]
            elif key not in wanted:
                gone.append((key, None))
        return [*gone, *wanted.items()]

    def _rows(self, inode: InodeNumber) -> Iterator[tuple[bytes, bytes]]:
        return self._index.pages(Table.TENSORS, pair_key(inode, 0), pair_key(inode + 1, 0))


def _row(span: TensorSpan) -> TensorRow:
    if len(span.shape) > DIMENSIONS_MAX or any(each >= NUMBER_MAX for each in span.shape):
        return TensorRow(span.start, span.size, "U8", (span.size,), span.name)
    return TensorRow(span.start, span.size, span.dtype, span.shape, span.name)
