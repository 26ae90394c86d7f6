"""Tensors of every element type, and the codecs that can encode them."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from modelfs.codecs import factored, narrow, palette, planes, repeat
from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import Element, element_of

DTYPES: Final = ("F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "I32", "I16", "U8", "F4")

COLUMNS: Final = 20


def factored_encode(raw: bytes, element: Element) -> bytes | None:
    """Encode as a part of a matrix that begins in the middle of a row."""
    return factored.encode(raw, element, factored.Grid(COLUMNS, 7))


ENCODERS: Final[dict[CodecId, Callable[[bytes, Element], bytes | None]]] = {
    CodecId.PLANES: planes.encode,
    CodecId.REPEAT: repeat.encode,
    CodecId.PALETTE: palette.encode,
    CodecId.NARROW: narrow.encode,
    CodecId.FACTORED: factored_encode,
}

elements: Final = st.sampled_from(DTYPES).map(element_of)

_FLOATS: Final = {2: np.float16, 4: np.float32, 8: np.float64}


def normal(count: int, element: Element, seed: int) -> NDArray[Any]:
    """Return numbers like those of trained weights, of the element's width."""
    numbers = np.random.default_rng(seed).normal(0, 0.02, count)
    if element.is_float and element.width > 1:
        return numbers.astype(_FLOATS[element.width])
    return (numbers * 2000).astype(f"<i{element.width}")


def moments(count: int, element: Element, seed: int) -> NDArray[Any]:
    """Return numbers nearly determined by row and column, from the middle of a row on."""
    random = np.random.default_rng(seed)
    rows = random.normal(0, 4, (-(-(count + 7) // COLUMNS), 1))
    numbers = 2 ** (random.normal(0, 0.3, (len(rows), COLUMNS)) + rows + rows[:1, :1] - 9)
    return (numbers * 2 ** random.normal(0, 2, COLUMNS)).reshape(-1)[7 : 7 + count]


def low_precision(count: int, element: Element, seed: int) -> bytes:
    """Return numbers that are exact in a type of half the width, where there is one."""
    if element.width == 1 or element == element_of("F16"):
        return normal(count, element, seed).tobytes()
    half = Element(element.width // 2, element.exponent)
    return normal(count, half, seed).astype(normal(0, element, 0).dtype).tobytes()


@st.composite
def contents(draw: st.DrawFn, element: Element) -> bytes:
    """Draw bytes of every form, with or without an incomplete number at their end."""
    seed, count = draw(st.integers(0, 99)), draw(st.sampled_from([0, 1, 3, 64, 1000]))
    numbers = draw(
        st.sampled_from(
            [
                normal(count, element, seed).tobytes(),
                low_precision(count, element, seed),
                np.repeat(normal(3, element, seed), count).tobytes(),
                normal(7, element, seed).tobytes() * count,
                moments(count, element, seed).astype(normal(0, element, 0).dtype).tobytes(),
            ]
        )
        | st.binary(max_size=200)
    )
    return numbers[draw(st.integers(0, 1)) :] + draw(st.binary(max_size=9))
