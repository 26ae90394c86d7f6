"""Palette: each distinct value once, and for every number the index of its value.

Masks, one-hot and ternary weights, weights that were quantised and are stored dequantised.

Example. The U16 numbers 7, 9, 9, 7, 7 have the values 7 and 9 and indices of one bit, 0 1 1 0 0, in
one byte, 06.

Stored form::

    offset     size  field
    0          1     width    bytes per value, w: 1, 2, 4 or 8
    1          1     bits     bits per index, b: 1, 2, 4 or 8
    2          1     count    number of values less one, n - 1
    3          n w   values   in ascending order as unsigned numbers
    3+nw       t     tail     the last t = (size of the content) mod w bytes, as they are
    3+nw+t     rest  indices  b bits each, the first in the lowest bits of the first byte, as
                              the one plane of `planes.pack`
"""

from typing import Final

import numpy as np

from modelfs.codecs.bits import pack_bits
from modelfs.codecs.elements import WIDTHS, Element
from modelfs.codecs.kernels.planes import expand
from modelfs.codecs.planes import pack, unpack

_HEAD: Final = 3
_BITS: Final = (1, 2, 4, 8)
_SAMPLE: Final = 1024  # numbers, from all over the content


class Palette:
    """Distinct values, and indices among them."""

    def decode(self, stored: bytes, size: int) -> bytes:
        if len(stored) < _HEAD or stored[0] not in WIDTHS or stored[1] not in _BITS:
            raise ValueError(f"no palette: {stored[:_HEAD].hex()}")
        width, bits, entries = stored[0], stored[1], stored[2] + 1
        values_stop = _HEAD + entries * width
        tail_stop = values_stop + size % width
        count = size // width
        view = memoryview(stored)
        (indices,) = unpack(view[tail_stop:], 1, (count * bits + 7) // 8)
        words = expand(indices, bits, view[_HEAD:values_stop], width, count)
        return words + stored[values_stop:tail_stop]


def encode(raw: bytes, element: Element) -> bytes | None:
    """Return the stored form of numbers of at most 256 values, of bytes of at most 16."""
    width = element.width
    most = 16 if width == 1 else 256
    words = np.frombuffer(raw, f"<u{width}", len(raw) // width)
    sample = words[:: max(1, len(words) // _SAMPLE)].tolist()  # at most 2047: quicker as a set
    if not sample or len(set(sample)) > most:
        return None
    values = np.unique(words)
    if len(values) > most:
        return None
    bits = next(bits for bits in _BITS if len(values) <= 1 << bits)
    indices = np.searchsorted(values, words).astype(np.uint8)
    head = bytes([width, bits, len(values) - 1]) + values.tobytes()
    return head + raw[words.nbytes :] + pack([pack_bits(indices, bits)])
