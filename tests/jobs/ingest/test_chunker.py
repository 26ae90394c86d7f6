"""The cut of files into pieces."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from modelfs.formats.layout import TensorSpan
from modelfs.jobs.ingest.chunker import NEIGHBOURHOOD, TENSOR_MIN, Cutter, Piece, Role, skeletons
from modelfs.store.index.ranges import RangeSet

CHUNK = 4096


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[TensorSpan], int]:
    """Tensors in order, with stretches of any length around them, and the file's size."""
    at = 0
    spans: list[TensorSpan] = []
    for number in range(draw(st.integers(0, 6))):
        at += draw(st.sampled_from([0, 1, 50, 4096, 5000, 70_000]))
        size = draw(st.sampled_from([1, 127, 128, 4096, 4097, 10_000]))
        spans.append(TensorSpan(f"t{number}", "U8", (size,), at, at + size))
        at += size
    return spans, at + draw(st.sampled_from([0, 1, 100, 70_000]))


def cut(spans: Sequence[TensorSpan], size: int, data: RangeSet | None = None) -> list[Piece]:
    whole = RangeSet([(0, size)]) if data is None else data
    return list(Cutter(spans, size, CHUNK).pieces(whole))


def worth_a_chunk(spans: Sequence[TensorSpan]) -> list[TensorSpan]:
    return [span for span in spans if span.size >= TENSOR_MIN]


@given(layout=layouts())
def test_pieces_tile_the_file(layout: tuple[list[TensorSpan], int]) -> None:
    """Each byte is in one piece, pieces are in order, and none is longer than a chunk."""
    spans, size = layout
    pieces = cut(spans, size)
    assert [0, *(piece.stop for piece in pieces)] == [*(piece.start for piece in pieces), size]
    assert all(0 < piece.stop - piece.start <= CHUNK for piece in pieces)


@given(layout=layouts())
def test_no_piece_straddles_a_tensor(layout: tuple[list[TensorSpan], int]) -> None:
    """A tensor worth a chunk begins a piece, ends one, and is cut on a grid from its start."""
    spans, size = layout
    pieces = cut(spans, size)
    starts = {piece.start for piece in pieces}
    for span in worth_a_chunk(spans):
        grid = set(range(span.start, span.stop, CHUNK))
        assert starts & set(range(span.start, span.stop)) == grid
        inside = [piece for piece in pieces if span.start <= piece.start < span.stop]
        assert inside[-1].stop == span.stop
        assert {piece.role for piece in inside} == {Role.TENSOR}


@given(layout=layouts(), data=st.data())
def test_pieces_cover_just_the_data(
    layout: tuple[list[TensorSpan], int], data: st.DataObject
) -> None:
    """With holes, the pieces are those of the whole file, clipped to the data."""
    spans, size = layout
    bounds = sorted(data.draw(st.sets(st.integers(0, size), max_size=6)))
    ranges = RangeSet(zip(bounds[::2], bounds[1::2], strict=False))
    pieces = cut(spans, size, ranges)
    assert RangeSet((piece.start, piece.stop) for piece in pieces) == ranges
    assert sum(piece.stop - piece.start for piece in pieces) == ranges.size
    wholes = cut(spans, size)
    clipped = [
        Piece(start, stop, whole.role)
        for whole in wholes
        for start, stop in ranges.within(whole.start, whole.stop)
    ]
    assert sorted(pieces, key=lambda piece: piece.start) == clipped


@given(
    layout=layouts(), shift=st.sampled_from([1, 100, CHUNK, 12_345]), size=st.integers(128, 20_000)
)
def test_a_tensor_is_cut_alike_wherever_it_lies(
    layout: tuple[list[TensorSpan], int], shift: int, size: int
) -> None:
    """The pieces of a tensor depend on its size only."""
    alone = cut([TensorSpan("t", "U8", (size,), shift, shift + size)], shift + size)
    wanted = [(p.start - shift, p.stop - shift) for p in alone if p.role is Role.TENSOR]
    spans, at = layout
    pieces = cut([*spans, TensorSpan("t", "U8", (size,), at, at + size)], at + size)
    assert [(p.start - at, p.stop - at) for p in pieces if p.start >= at] == wanted


def test_a_file_without_tensors_is_cut_on_a_grid() -> None:
    """A plain file is cut on a grid from its start."""
    pieces = cut([], 3 * CHUNK + 1)
    assert [piece.start for piece in pieces] == [0, CHUNK, 2 * CHUNK, 3 * CHUNK]
    assert {piece.role for piece in pieces} == {Role.PLAIN}


def test_tensors_past_the_end_of_a_growing_file_are_left_for_later() -> None:
    """A layout may have tensors behind the present end of the file."""
    spans = [
        TensorSpan("a", "U8", (300,), 100, 400),
        TensorSpan("b", "U8", (300,), 400, 700),
        TensorSpan("c", "U8", (300,), 700, 1000),
    ]
    pieces = cut(spans, 500)
    assert [(piece.start, piece.stop) for piece in pieces] == [(0, 100), (100, 400), (400, 500)]


def test_a_huge_hole_costs_nothing() -> None:
    """The cost depends on the data, not on the file's size."""
    pieces = cut([], 1 << 62, RangeSet([(0, 10), ((1 << 62) - 10, 1 << 62)]))
    assert len(pieces) == 2


GLUE = st.lists(
    st.tuples(st.sampled_from([0, 10, NEIGHBOURHOOD]), st.sampled_from([1, 100, 3000, CHUNK])),
    max_size=12,
)


@given(glue=GLUE)
def test_skeletons_are_bounded(glue: list[tuple[int, int]]) -> None:
    """Each glue piece is in one skeleton, of at most a chunk and one neighbourhood."""
    at = 0
    pieces: list[Piece] = []
    for gap, size in glue:
        pieces.append(Piece(at + gap, at + gap + size, Role.GLUE))
        at += gap + size
    groups = list(skeletons(pieces, CHUNK))
    assert [piece for group in groups for piece in group] == pieces
    for group in groups:
        assert sum(piece.stop - piece.start for piece in group) <= CHUNK
        assert len({piece.start // NEIGHBOURHOOD for piece in group}) == 1
    for left, right in pairwise(groups):
        together = [*left, right[0]]
        size = sum(piece.stop - piece.start for piece in together)
        places = {piece.start // NEIGHBOURHOOD for piece in together}
        assert size > CHUNK or len(places) > 1
