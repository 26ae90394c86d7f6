"""Tensor views: the bytes of one tensor as runs of chunks."""

import pytest

from modelfs.codecs.factored import Grid
from modelfs.store.chunks.recipe import SourceRun
from modelfs.store.files.tensor_view import TensorView
from modelfs.store.index.tables import InodeNumber
from modelfs.store.index.tensor_records import TensorRow
from modelfs.store.store import Store
from tests.support.derived_chunks import chunk_at
from tests.support.run_jobs import ingest_file
from tests.support.stores import CHUNK, new_file, noise, stored_file

DATA = noise(3 * CHUNK)


def view_of(store: Store, inode: InodeNumber, start: int, size: int, *shape: int) -> TensorView:
    row = TensorRow(start, size, "F32", shape or (size // 4,), "t")
    return TensorView(store.maps, store.chunk_reader, inode, row)


def test_runs_are_cut_to_the_tensor_and_the_range(opened: Store) -> None:
    """A tensor that begins and ends inside chunks has the parts of these, from its own start."""
    inode = stored_file(opened, b"f", DATA)
    one, two, three = (chunk_at(opened, inode, number * CHUNK) for number in range(3))
    view = view_of(opened, inode, 100, 2 * CHUNK)
    assert [(span.start, span.run) for span in view.spans] == [
        (0, SourceRun(one, 100, CHUNK - 100)),
        (CHUNK - 100, SourceRun(two, 0, CHUNK)),
        (2 * CHUNK - 100, SourceRun(three, 0, 100)),
    ]
    assert view.runs(0, 10) == (SourceRun(one, 100, 10),)
    assert view.runs(CHUNK - 100, CHUNK) == (SourceRun(two, 0, 100),)
    assert view.runs(CHUNK - 101, CHUNK - 99) == (
        SourceRun(one, CHUNK - 1, 1),
        SourceRun(two, 0, 1),
    )
    edges = (0, 1, CHUNK - 100, CHUNK, 2 * CHUNK - 100, 2 * CHUNK)
    for start in edges:
        for stop in edges[edges.index(start) + 1 :]:
            assert view.read(start, stop) == DATA[100 + start : 100 + stop]


def test_bytes_that_are_in_no_chunk_have_no_runs(opened: Store) -> None:
    """A range with a byte in a hole, or past the end of the tensor, is not read at all."""
    inode = new_file(opened, b"f", DATA[:CHUNK])
    opened.writes.write(inode, 2 * CHUNK, DATA[2 * CHUNK :])
    ingest_file(opened, inode)
    view = view_of(opened, inode, 0, 3 * CHUNK)
    assert view.read(0, CHUNK) == DATA[:CHUNK]
    assert view.read(2 * CHUNK, 3 * CHUNK) == DATA[2 * CHUNK :]
    for start, stop in (
        (CHUNK - 1, CHUNK + 1),
        (CHUNK, CHUNK + 1),
        (CHUNK, 2 * CHUNK + 1),
        (0, 3 * CHUNK),
        (3 * CHUNK - 1, 3 * CHUNK + 1),
    ):
        assert view.read(start, stop) is None


def test_a_view_outlives_a_change_of_its_file(opened: Store) -> None:
    """A view reads the bytes that the file had when the view was made."""
    inode = stored_file(opened, b"f", DATA)
    view = view_of(opened, inode, 0, 3 * CHUNK)
    opened.writes.write(inode, 0, b"new")
    ingest_file(opened, inode)
    assert view.read(0, 3 * CHUNK) == DATA


@pytest.mark.parametrize(
    ("shape", "start", "grid"),
    [
        ((4, 20), 0, Grid(20, 0)),
        ((4, 20), 4 * 23, Grid(20, 3)),
        ((4, 20), 2, None),
        ((80,), 0, None),
    ],
    ids=["first row", "inside the second row", "inside a number", "a vector"],
)
def test_a_byte_has_a_position_in_the_matrix(
    opened: Store, shape: tuple[int, ...], start: int, grid: Grid | None
) -> None:
    """The position has the numbers of a row, and the column of a byte that begins a number."""
    inode = stored_file(opened, b"f", DATA)
    assert view_of(opened, inode, 0, 320, *shape).grid(start) == grid
