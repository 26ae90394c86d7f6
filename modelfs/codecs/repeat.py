"""Repeat: content that repeats its first bytes: all zero, one value, or one row again and again.

Freshly initialised biases and LayerNorms, attention masks, padding, broadcast tensors.

Example. The bytes 1 2 3 1 2 3 1 have the period 3 and the pattern 1 2 3.

Stored form::

    offset  size  field
    0       4     period   p, u32 little-endian
    4       p     pattern  byte i of the content is byte i mod p of this
"""

import struct
from collections.abc import Iterator
from typing import Final

from modelfs.codecs.elements import Element

_HEAD: Final = struct.Struct("<I")

_PROBE: Final = 64  # bytes whose next occurrence is searched
_TRIAL: Final = 1 << 10  # bytes that are compared before all of them
_TRIES: Final = 8


class Repeat:
    """A pattern, again and again."""

    def decode(self, stored: bytes, size: int) -> bytes:
        if len(stored) < _HEAD.size:
            raise ValueError(f"{len(stored)} bytes hold no period")
        period: int = _HEAD.unpack_from(stored)[0]
        if not 0 < period <= size or len(stored) != _HEAD.size + period:
            raise ValueError(f"{len(stored)} bytes for a period of {period} in {size}")
        pattern = stored[_HEAD.size :]
        return pattern * (size // period) + pattern[: size % period]


def encode(raw: bytes, element: Element) -> bytes | None:
    """Return the stored form of bytes that repeat within their first half, None of others."""
    for period in _likely_periods(raw, element.width):
        beginning = raw[: min(_TRIAL, len(raw) - period)]
        if raw.startswith(beginning, period) and raw[period:] == raw[:-period]:
            return _HEAD.pack(period) + raw[:period]
    return None


def _likely_periods(raw: bytes, width: int) -> Iterator[int]:
    half = len(raw) // 2
    if width <= half:
        yield width
    # Rows may begin with many zeros, so the probe begins where the first value ends.
    start = len(raw) - len(raw.lstrip(raw[:width]))
    probe, at = raw[start : min(start + _PROBE, half)], start
    for _ in range(_TRIES if probe else 0):
        at = raw.find(probe, at + 1, start + half + len(probe))
        if at < 0:
            return
        yield at - start
