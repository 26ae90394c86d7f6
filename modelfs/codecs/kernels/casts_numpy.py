"""The functions of `_casts` in numpy: the reference, and the fallback without a compiler."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modelfs.codecs.base import Bytes

_Words = npt.NDArray[Any]

# -- casts


def cast(source: Bytes, number: int) -> bytes:
    """Return the words of `source` after the cast `number`, rounded to nearest, ties to even.

    Raises:
        ValueError: there is no such cast, or these are not its words.
    """
    width, _, convert = CASTS.get(number, (0, 0, None))
    if convert is None or len(source) % width:
        raise ValueError(f"{len(source)} bytes for cast {number}")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        result: bytes = convert(np.frombuffer(source, f"<u{width}")).tobytes()
    return result


def _to_bfloat(words: _Words) -> _Words:
    rounded = (words + np.uint32(0x7FFF) + ((words >> 16) & 1)) >> 16
    nan = (words & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, np.uint32(0x7FC0), rounded).astype("<u2")


def _to_half(words: _Words) -> _Words:
    halves = words.view("<f4").astype("<f2").view("<u2")
    signs = (words >> 16).astype("<u2") & np.uint16(0x8000)
    return np.where((words & 0x7FFFFFFF) > 0x7F800000, signs | np.uint16(0x7E00), halves)


def _to_single(words: _Words) -> _Words:
    singles = words.view("<f8").astype("<f4").view("<u4")
    nan = (words & 0x7FFFFFFFFFFFFFFF) > 0x7FF0000000000000
    kept = ((words >> 32) & 0x80000000) | 0x7FC00000 | ((words >> 29) & 0x3FFFFF)
    return np.where(nan, kept.astype("<u4"), singles)


def _from_half(words: _Words) -> _Words:
    wide = words.astype("<u4")
    nan = ((wide & 0x8000) << 16) | 0x7F800000 | ((wide & 0x3FF) << 13)
    singles = words.view("<f2").astype("<f4").view("<u4")
    return np.where(wide & 0x7FFF > 0x7C00, nan, singles)


# By number: the widths of source and result, and the conversion.
CASTS: Final[dict[int, tuple[int, int, Callable[[_Words], _Words]]]] = {
    1: (4, 2, _to_bfloat),
    2: (4, 2, _to_half),
    3: (8, 4, _to_single),
    4: (2, 4, lambda words: words.astype("<u4") << 16),
    5: (2, 4, _from_half),
}


# -- transposes


def transpose(source: Bytes, width: int, rows: int, cols: int, first: int, stop: int) -> bytes:
    """Return the words `first` to `stop` of `source` with the rows of its matrices as columns.

    Raises:
        ValueError: `source` is not made of such matrices, or has no such words.
    """
    if width not in (1, 2, 4, 8, 16) or rows < 1 or cols < 1:
        raise ValueError(f"{rows} x {cols} words of {width}")
    words = len(source) // width
    if len(source) % width or rows * cols > words or words % (rows * cols):
        raise ValueError(f"{rows} x {cols} words of {width} in {len(source)} bytes")
    if not 0 <= first <= stop <= words:
        raise ValueError(f"words {first} to {stop} of {words}")
    top, bottom = first // rows, -(-stop // rows)  # the rows of the result that are needed
    matrices = np.frombuffer(source, f"V{width}").reshape(-1, rows, cols)
    needed = [matrices[row // cols, :, row % cols].tobytes() for row in range(top, bottom)]
    return b"".join(needed)[(first - top * rows) * width : (stop - top * rows) * width]
