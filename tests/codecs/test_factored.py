"""Numbers that their rows and columns nearly tell: when that is used, and what it takes."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modelfs.codecs import factored, planes
from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import element_of
from modelfs.codecs.factored import Factored, Grid
from modelfs.codecs.smallest import encode_tensor
from tests.codecs.tensors import COLUMNS, moments

F32 = element_of("F32")
COUNT = 40 * COLUMNS


def numbers(dtype: str = "<f4", count: int = COUNT) -> NDArray[Any]:
    return moments(count, F32, 1).astype(dtype)


@pytest.mark.parametrize(("name", "dtype"), [("F32", "<f4"), ("F64", "<f8"), ("F16", "<f2")])
@pytest.mark.parametrize("cut", [0, 3])
def test_moments_take_less_than_their_planes(name: str, dtype: str, cut: int) -> None:
    """Of any width, from any place in a row on, with a number cut off at the end."""
    raw = numbers(dtype, 400 * COLUMNS).tobytes() + bytes(range(cut))
    stored = factored.encode(raw, element_of(name), Grid(COLUMNS, 7))
    assert stored is not None
    assert len(stored) < 0.97 * len(planes.encode(raw, element_of(name)))
    assert Factored().decode(stored, len(raw)) == raw


def test_without_a_grid_there_are_no_rows() -> None:
    """Of bytes of which nobody knows what they are part of, planes are the smallest form."""
    raw = numbers(count=400 * COLUMNS).tobytes()
    assert encode_tensor(raw, F32, Grid(COLUMNS, 7))[0] is CodecId.FACTORED
    assert encode_tensor(raw, F32)[0] is CodecId.PLANES


def test_weights_are_not_tried() -> None:
    """What has both signs, what rows and columns do not tell, and what is short is left alone."""
    random = np.random.default_rng(1)
    weights = random.normal(0, 1, COUNT).astype("<f4")
    for raw in (weights.tobytes(), np.abs(weights).tobytes(), numbers()[: 2 * COLUMNS].tobytes()):
        assert factored.encode(raw, F32, Grid(COLUMNS, 0)) is None
    assert factored.encode(numbers().tobytes(), element_of("I32"), Grid(COLUMNS, 7)) is None


def test_rows_of_zeros_take_nothing() -> None:
    """A row that is zero is told by its mean, not number by number."""
    table = moments(400 * COLUMNS, F32, 1).astype("<f4")[COLUMNS - 7 :]
    table = table[: len(table) // COLUMNS * COLUMNS].reshape(-1, COLUMNS)
    half = np.concatenate([table, np.zeros_like(table)])
    with_zeros, without = (
        factored.encode(each.tobytes(), F32, Grid(COLUMNS, 0)) for each in (half, table)
    )
    assert with_zeros is not None
    assert without is not None
    assert len(with_zeros) < len(without) + 300
    assert Factored().decode(with_zeros, half.nbytes) == half.tobytes()


@pytest.mark.parametrize("odd", [0.0, np.nan, np.inf, 1e-45, -1.0, 3e38])
@pytest.mark.parametrize("place", [0, -1])
def test_odd_numbers_come_back(odd: float, place: int) -> None:
    """A number that is nothing like its row and column comes back all the same."""
    values = numbers()
    values[place] = odd
    raw = values.tobytes()
    stored = factored.encode(raw, F32, Grid(COLUMNS, 7))
    assert stored is not None
    assert Factored().decode(stored, len(raw)) == raw
