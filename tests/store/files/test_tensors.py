"""The tensor table: rows of tensors, and the changes that another layout makes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.formats.layout import Format, Layout, TensorSpan
from modelfs.store.disk.directory import Directory
from modelfs.store.files.tensors import DIMENSIONS_MAX, NUMBER_MAX, TensorTable
from modelfs.store.index.index import Index
from modelfs.store.index.tables import InodeNumber, Table

FILE = InodeNumber(5)
A = TensorSpan("a", "F16", (10, 10), 100, 300)
B = TensorSpan("b", "F32", (5,), 300, 320)
EMPTY = TensorSpan("empty", "F32", (0,), 300, 300)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(Directory(tmp_path))
    yield index
    index.close()


def put(index: Index, inode: InodeNumber, *spans: TensorSpan) -> int:
    """Give a file the rows of a layout, and return how many rows changed."""
    changes = TensorTable(index).changes(inode, Layout(Format.SAFETENSORS, spans))
    with index.change():
        for key, value in changes:
            if value is None:
                index.delete(Table.TENSORS, key)
            else:
                index.put(Table.TENSORS, key, value)
    return len(changes)


def test_a_file_has_the_rows_of_its_last_layout(index: Index) -> None:
    """Only rows that differ are changed, and rows of neighbouring inodes are left alone."""
    table = TensorTable(index)
    for inode in (InodeNumber(4), FILE, InodeNumber(6)):
        assert put(index, inode, A, B) == 2
    assert put(index, FILE, A, B) == 0
    moved = TensorSpan("b", "F32", (5,), 304, 324)
    assert put(index, FILE, A, moved) == 2
    assert list(table.spans(FILE)) == [A, moved]
    assert put(index, FILE) == 2
    assert list(table.spans(FILE)) == []
    assert list(table.spans(InodeNumber(4))) == list(table.spans(InodeNumber(6))) == [A, B]


def test_a_tensor_is_found_by_its_start(index: Index) -> None:
    """Of tensors with one start, that with bytes is found; an offset inside finds none."""
    table = TensorTable(index)
    put(index, FILE, A, EMPTY, B)
    assert list(table.spans(FILE)) == [A, EMPTY, B]
    row = table.find(FILE, 300)
    assert row is not None
    assert (row.name, row.size) == ("b", 20)
    assert table.find(FILE, 101) is None
    assert table.find(InodeNumber(6), 100) is None


@pytest.mark.parametrize(
    ("shape", "kept"),
    [
        ((1,) * DIMENSIONS_MAX, True),
        ((1,) * (DIMENSIONS_MAX + 1), False),
        ((NUMBER_MAX - 1, 0), True),
        ((NUMBER_MAX, 0), False),
    ],
    ids=["dimensions", "too many dimensions", "number", "too large number"],
)
def test_a_shape_that_no_row_can_have_is_a_vector(
    index: Index, shape: tuple[int, ...], *, kept: bool
) -> None:
    """A tensor beyond the limits of a row keeps its name and its bytes."""
    put(index, FILE, TensorSpan("huge", "F32", shape, 8, 12))
    (span,) = TensorTable(index).spans(FILE)
    assert (span.name, span.start, span.stop) == ("huge", 8, 12)
    assert (span.dtype, span.shape) == (("F32", shape) if kept else ("U8", (4,)))
