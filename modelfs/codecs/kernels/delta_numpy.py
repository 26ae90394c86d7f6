"""The functions of `_delta` in numpy: the reference, and the fallback without a compiler.

`modelfs.codecs.delta` specifies the delta that is made of their results.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modelfs.codecs.base import Bytes
from modelfs.codecs.kernels.delta_streams import BLOCK, CLASSES, Streams

_BIAS: Final = 64
_ESCAPE: Final = 255
_SATURATED: Final = CLASSES - 1
_SLACK: Final = 8  # bytes behind the low bits, so that eight bytes can be read at any bit

_Words = npt.NDArray[Any]
_Ints = npt.NDArray[np.int64]


class _Kind:
    """Words of one width and form, and the table that predicts their steps; all checked."""

    def __init__(self, width: int, exponent: int, table: Bytes) -> None:
        mantissa = 8 * width - 1 - exponent
        if width not in (1, 2, 4, 8) or not 0 <= exponent <= 11 or mantissa < 1:
            raise ValueError(f"words of {width} bytes with {exponent} of exponent")
        bits = max(len(table) // 4, 1).bit_length() - 1
        if len(table) and (len(table) != 4 << bits or not exponent or not 0 < bits <= mantissa):
            raise ValueError(f"a table of {len(table)} bytes")
        self.entries = np.frombuffer(table, "<i4")
        self.width, self.exponent, self.mantissa, self.bits = width, exponent, mantissa, bits
        self.dtype = np.dtype(f"<u{width}")
        self.cap = max(mantissa - 2, 0) if exponent else 8 * width - 8
        self.clip = mantissa if exponent else 8 * width

    def words(self, raw: Bytes) -> _Words:
        return np.frombuffer(raw, self.dtype)

    def exponents(self, words: _Words) -> _Ints:
        if not self.exponent:
            return np.zeros(len(words), np.int64)
        return ((words >> self.mantissa) & ((1 << self.exponent) - 1)).astype(np.int64)

    def _signs(self, words: _Words) -> npt.NDArray[np.bool_]:
        return (words >> (8 * self.width - 1)).astype(np.bool_)

    def ordered(self, words: _Words) -> _Words:
        """Return integers in the order of the numbers whose bits are `words`."""
        if not self.exponent:
            return words
        top = self.dtype.type(1 << (8 * self.width - 1))
        return np.where(self._signs(words), ~words, words ^ top)

    def unordered(self, words: _Words) -> _Words:
        if not self.exponent:
            return words
        top = self.dtype.type(1 << (8 * self.width - 1))
        return np.where(self._signs(words), words ^ top, ~words)

    def outward(self, steps: _Words, words: _Words) -> _Words:
        """Negate the steps of negative floats."""
        if not self.exponent:
            return steps
        return np.where(self._signs(words), self.dtype.type(0) - steps, steps)

    def predicted(self, words: _Words) -> _Words:
        if not len(self.entries):
            return np.zeros(len(words), self.dtype)
        places = (words >> (self.mantissa - self.bits)) & ((1 << self.bits) - 1)
        expected: _Words = self.entries[places].astype(np.int64).astype(self.dtype)
        return expected


def differ(raw: Bytes, base: Bytes, width: int, exponent: int, table: Bytes) -> tuple[bytes, bytes]:
    """Return the steps from the words of `base` to those of `raw`, and each block's peak.

    Steps are zigzag; peaks are 2 bytes each, 0 where nothing differs.

    Raises:
        ValueError: these are no words, not as many of both, or not of that kind.
    """
    kind = _Kind(width, exponent, table)
    if len(raw) != len(base) or len(raw) % width:
        raise ValueError(f"{len(raw)} bytes against {len(base)}")
    words = kind.words(base)
    steps = kind.outward(kind.ordered(kind.words(raw)) - kind.ordered(words), words)
    steps = steps - kind.predicted(words)
    zigzag = (steps << 1) ^ (kind.dtype.type(0) - (steps >> (8 * width - 1)))
    sizes = np.minimum(_bit_lengths(zigzag), kind.clip) + kind.exponents(words)
    sizes = np.pad(np.where(zigzag > 0, sizes, 0), (0, -len(words) % BLOCK))
    return zigzag.tobytes(), sizes.reshape(-1, BLOCK).max(1, initial=0).astype("<u2").tobytes()


def _bit_lengths(words: _Words) -> _Ints:
    lengths = np.zeros(len(words), np.int64)
    rest = words.astype(np.uint64)
    for shift in (32, 16, 8, 4, 2, 1):
        large = rest >> shift > 0
        lengths += large * shift
        rest = np.where(large, rest >> shift, rest)
    return lengths + (rest > 0)


def _classified(kind: _Kind, words: _Words, scales: Bytes) -> tuple[_Ints, _Ints, _Ints]:
    """Return the indices of the words that have tokens, and their classes and low bits."""
    if len(scales) != -(-len(words) // BLOCK) * 2:
        raise ValueError(f"{len(scales)} bytes of scales for {len(words)} words")
    scale = np.repeat(np.frombuffer(scales, "<u2").astype(np.int64), BLOCK)[: len(words)]
    moved = np.flatnonzero(scale)
    depths = (scale - _BIAS - kind.exponents(words))[moved]
    classes = np.where(depths > kind.cap, _SATURATED, (-depths).clip(0, _SATURATED - 1))
    return moved, classes, depths.clip(0, kind.cap)


def scatter(
    zigzag: Bytes, base: Bytes, width: int, exponent: int, scales: Bytes
) -> tuple[list[bytes], bytes, bytes]:
    """Return the tokens of each class, the low bits, and the words that no token stands for.

    Raises:
        ValueError: these are no words, not as many of both, or not of that kind.
    """
    kind = _Kind(width, exponent, b"")
    if len(base) % width or len(zigzag) != len(base):
        raise ValueError(f"{len(zigzag)} bytes against {len(base)}")
    moved, classes, shifts = _classified(kind, kind.words(base), scales)
    steps = kind.words(zigzag)[moved].astype(np.uint64)
    high = steps >> shifts.astype(np.uint64)
    tokens = np.minimum(high, _ESCAPE).astype(np.uint8)
    parts = [tokens[classes == place].tobytes() for place in range(CLASSES)]
    return parts, _pack_lows(steps, shifts), high[high >= _ESCAPE].astype(kind.dtype).tobytes()


def _pack_lows(steps: npt.NDArray[np.uint64], shifts: _Ints) -> bytes:
    """Return the low bits of each step, one after the other from the lowest bit on."""
    starts = np.cumsum(shifts) - shifts
    bits = np.zeros(int(shifts.sum()), np.uint8)
    for place in range(int(shifts.max(initial=0))):
        deep = shifts > place
        bits[starts[deep] + place] = (steps[deep] >> np.uint64(place)) & np.uint64(1)
    return np.packbits(bits, bitorder="little").tobytes()


def widen(packed: Bytes, bits: int, large: Bytes, count: int) -> bytes:
    """Return `count` tokens of which each has so many bits; all ones stand for one of `large`.

    Raises:
        ValueError: these are not so many tokens, or other ones than `large` are asked for.
    """
    if bits not in (2, 4) or len(packed) != -(-count * bits // 8):
        raise ValueError(f"{len(packed)} bytes for {count} tokens of {bits} bits")
    most, places = (1 << bits) - 1, np.arange(0, 8, bits, dtype=np.uint8)
    tokens = (np.frombuffer(packed, np.uint8)[:, None] >> places & most).reshape(-1)[:count]
    escaped = np.flatnonzero(tokens == most)
    if len(escaped) != len(large):
        raise ValueError(f"{len(large)} large tokens where others are asked for")
    tokens[escaped] = np.frombuffer(large, np.uint8)
    return tokens.tobytes()


def _unpack_lows(lows: Bytes, shifts: _Ints) -> npt.NDArray[np.uint64]:
    stops = np.cumsum(shifts)
    if (int(shifts.sum()) + 7) // 8 != len(lows):
        raise ValueError("low bits of another length than the base asks for")
    padded = b"".join([lows, bytes(_SLACK)])
    windows = np.ndarray((len(lows) + 1,), "<u8", padded, strides=(1,))
    starts = stops - shifts
    within = (starts & 7).astype(np.uint64)
    masks = (np.uint64(1) << shifts.astype(np.uint64)) - np.uint64(1)
    low: npt.NDArray[np.uint64] = (windows[starts >> 3] >> within) & masks
    return low


def restore(base: Bytes, width: int, exponent: int, parts: Streams, tail: Bytes) -> bytes:
    """Return the words that the streams encode as steps from `base`, and `tail` behind them.

    Raises:
        ValueError: these are no words, not of that kind, or other streams than `base` asks for.
    """
    kind = _Kind(width, exponent, parts.table)
    if len(base) % width or len(parts.tokens) != CLASSES:
        raise ValueError(f"{len(base)} bytes in words of {width}, {len(parts.tokens)} classes")
    words = kind.words(base)
    moved, classes, shifts = _classified(kind, words, parts.scales)
    high = _high_bits(kind, classes, parts)
    steps = np.zeros(len(words), kind.dtype)
    steps[moved] = (high << shifts.astype(np.uint64)) | _unpack_lows(parts.lows, shifts)
    steps = (steps >> 1) ^ (kind.dtype.type(0) - (steps & 1))
    steps = kind.outward(steps + kind.predicted(words), words)
    return kind.unordered(kind.ordered(words) + steps).tobytes() + bytes(tail)


def _high_bits(kind: _Kind, classes: _Ints, parts: Streams) -> npt.NDArray[np.uint64]:
    """Return the bits above the low ones, of each word that has a token."""
    high = np.empty(len(classes), np.uint64)
    for place, stream in enumerate(parts.tokens):
        (of_class,) = np.nonzero(classes == place)
        if len(of_class) != len(stream):
            raise ValueError("tokens of another number than the base asks for")
        high[of_class] = np.frombuffer(stream, np.uint8)
    escaped = np.flatnonzero(high == _ESCAPE)
    if len(escaped) * kind.width != len(parts.escapes):
        raise ValueError("escapes of another number than the tokens ask for")
    high[escaped] = kind.words(parts.escapes)
    return high
