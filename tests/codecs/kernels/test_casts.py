"""Compiled casts and transposes return and refuse the same as those in numpy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.codecs.kernels import casts, casts_numpy
from tests.support.compiled_kernels import both_of, compiled


def both(name: str, *args: object) -> Any:
    """Return the common result of both; None if both refuse."""
    return both_of(compiled("_casts"), casts_numpy, name, *args)


def test_what_is_compiled_is_used() -> None:
    """Where there are compiled loops, the codecs run them."""
    for name in casts.__all__:
        assert getattr(casts, name) is getattr(compiled("_casts"), name)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_casts_are_alike(number: int) -> None:
    """Both cast all exponents alike, with mantissas at and beside the ties and with others."""
    width = {1: 4, 2: 4, 3: 8, 4: 2, 5: 2}[number]
    high = np.arange(1 << 16, dtype=f"<u{width}") << (8 * width - 16)
    half = [0] if width == 2 else [0, 1, (1 << 12) - 1, 1 << 12, (1 << 12) + 1, 0x8000, 0xFFFF]
    more = [0, (1 << 28) - 1, 1 << 28, (1 << 28) + 1] if width == 8 else []
    for low in half + more:
        both("cast", (high | high.dtype.type(low)).tobytes(), number)
    both("cast", np.random.default_rng(1).bytes(1 << 20), number)


@given(source=st.binary(max_size=20), number=st.integers(-1, 7))
def test_other_casts_are_refused_alike(source: bytes, number: int) -> None:
    """Both refuse an unknown cast and incomplete words."""
    both("cast", source, number)


@given(
    source=st.binary(max_size=96),
    width=st.integers(0, 17),
    shape=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    part=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_transposes_are_alike(
    source: bytes, width: int, shape: tuple[int, int], part: tuple[int, int]
) -> None:
    """Both transpose any part of any shape alike, or both refuse it."""
    both("transpose", source, width, *shape, *part)
