"""Numbers that nearly follow from their rows and columns: when factored is used, and its size."""

import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modelfs.codecs import factored, planes
from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import element_of
from modelfs.codecs.factored import Factored, Grid
from modelfs.codecs.smallest import encode_tensor
from tests.support.element_types import COLUMNS, moments
from tests.support.paths import CODECS_GOLDEN

F32 = element_of("F32")
COUNT = 40 * COLUMNS


def numbers(dtype: str = "<f4", count: int = COUNT) -> NDArray[Any]:
    return moments(count, F32, 1).astype(dtype)


@pytest.mark.parametrize(("name", "dtype"), [("F32", "<f4"), ("F64", "<f8"), ("F16", "<f2")])
@pytest.mark.parametrize("cut", [0, 3])
def test_moments_take_less_than_their_planes(name: str, dtype: str, cut: int) -> None:
    """Numbers of any width come back, from any place in a row, also an incomplete last one."""
    raw = numbers(dtype, 400 * COLUMNS).tobytes() + bytes(range(cut))
    stored = factored.encode(raw, element_of(name), Grid(COLUMNS, 7))
    assert stored is not None
    assert len(stored) < 0.97 * len(planes.encode(raw, element_of(name)))
    assert Factored().decode(stored, len(raw)) == raw


def test_without_a_grid_there_are_no_rows() -> None:
    """Without the place in a matrix, planes are the smallest form."""
    raw = numbers(count=400 * COLUMNS).tobytes()
    assert encode_tensor(raw, F32, Grid(COLUMNS, 7))[0] is CodecId.FACTORED
    assert encode_tensor(raw, F32)[0] is CodecId.PLANES


def test_weights_are_not_tried() -> None:
    """Numbers of both signs, unrelated to rows and columns, or too few are not factored."""
    weights = np.abs(np.random.default_rng(1).normal(0, 1, COUNT)).astype("<f4")
    signed = numbers()
    signed.view("<u4")[::COLUMNS] |= np.uint32(1 << 31)  # a column below zero
    for values in (signed, weights, numbers()[: 2 * COLUMNS]):
        assert factored.encode(values.tobytes(), F32, Grid(COLUMNS, 7)) is None
    assert factored.encode(numbers().tobytes(), element_of("I32"), Grid(COLUMNS, 7)) is None


def test_what_saves_next_to_nothing_stays_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Factored is used only if it is clearly smaller, because it is slower to decode."""
    raw = numbers(count=400 * COLUMNS).tobytes()
    stored = planes.encode(raw, F32)
    for share, codec in ((0.97, CodecId.FACTORED), (0.99, CodecId.PLANES)):
        encoded = stored[: int(share * len(stored))]
        monkeypatch.setattr(factored, "encode", lambda *_, encoded=encoded: encoded)
        assert encode_tensor(raw, F32, Grid(COLUMNS, 7))[0] is codec


@pytest.mark.parametrize(
    ("width", "zero", "columns", "first"),
    [
        (3, 0, 20, 7),
        (4, 1, 20, 7),
        (4, 0, 0, 0),
        (4, 0, 20, 20),
        (4, 0, 20, 2**32 - 1),
        (4, 0, 2**32 - 1, 0),
        (4, 0, COUNT + 1, 0),
        (4, 0, COUNT, 0),
    ],
)
def test_a_damaged_head_is_refused(width: int, zero: int, columns: int, first: int) -> None:
    """A head with more rows or columns than the content has is refused."""
    raw = numbers().tobytes()
    stored = factored.encode(raw, F32, Grid(COLUMNS, 7))
    assert stored is not None
    head = struct.pack("<BBII", width, zero, columns, first)
    with pytest.raises(ValueError, match=r"."):
        Factored().decode(head + stored[len(head) :], len(raw))


def test_predictions_stay_within_a_word() -> None:
    """Sums below zero and beyond the highest are cut off: pinned, as stores hold such chunks."""
    raw, stored = (
        (CODECS_GOLDEN / f"FACTORED-clipped.{kind}").read_bytes() for kind in ("raw", "stored")
    )
    assert Factored().decode(stored, len(raw)) == raw
    unclipped = pytest.MonkeyPatch()
    unclipped.setattr(np, "clip", lambda *_, **__: None)
    with unclipped.context():
        other = Factored().decode(stored, len(raw))
    unclipped.undo()
    assert other != raw


def test_rows_of_zeros_take_nothing() -> None:
    """A row of zeros is stored by its mean, and not number by number."""
    table = moments(400 * COLUMNS, F32, 1).astype("<f4")[COLUMNS - 7 :]
    table = table[: len(table) // COLUMNS * COLUMNS].reshape(-1, COLUMNS)
    half = np.concatenate([table, np.zeros_like(table)])
    with_zeros, without = (
        factored.encode(values.tobytes(), F32, Grid(COLUMNS, 0)) for values in (half, table)
    )
    assert with_zeros is not None
    assert without is not None
    assert len(with_zeros) < len(without) + 300
    few = np.concatenate([np.zeros_like(table)] * 9 + [table[:8]])
    assert factored.encode(few.tobytes(), F32, Grid(COLUMNS, 0)) is None  # of too few rows
    assert Factored().decode(with_zeros, half.nbytes) == half.tobytes()


@pytest.mark.parametrize("odd", [0.0, np.nan, np.inf, 1e-45, -1.0, 3e38])
@pytest.mark.parametrize("place", [0, -1])
def test_odd_numbers_come_back(odd: float, place: int) -> None:
    """A number far from the prediction of its row and column comes back."""
    values = numbers()
    values[place] = odd
    raw = values.tobytes()
    stored = factored.encode(raw, F32, Grid(COLUMNS, 7))
    assert stored is not None
    assert Factored().decode(stored, len(raw)) == raw
