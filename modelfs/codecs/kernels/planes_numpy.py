"""The functions of `_planes` in numpy: the reference, and the fallback without a compiler."""

import numpy as np

from modelfs.codecs.base import Bytes


def split(raw: Bytes, width: int, rotated: bool) -> list[bytes]:
    """Return byte k of every word, for each k; the words first turned left by a bit if `rotated`.

    Raises:
        ValueError: `raw` is not made of words of 2, 4 or 8 bytes.
    """
    if width not in (2, 4, 8) or len(raw) % width:
        raise ValueError(f"{len(raw)} bytes are no words of {width}")
    words = np.frombuffer(raw, f"<u{width}")
    if rotated:
        words = (words << 1) | (words >> (8 * width - 1))
    return [plane.tobytes() for plane in words.view(np.uint8).reshape(-1, width).T]


def merge(planes: list[Bytes], rotated: bool, tail: Bytes) -> bytes:
    """Return the words that `split` made `planes` of, and `tail` behind them.

    Raises:
        ValueError: there are not 2, 4 or 8 planes, all of one length.
    """
    width = len(planes)
    if width not in (2, 4, 8):
        raise ValueError(f"{width} planes")
    if any(len(plane) != len(planes[0]) for plane in planes):
        raise ValueError("planes of different lengths")
    octets = np.empty((len(planes[0]), width), np.uint8)
    for place, plane in enumerate(planes):
        octets[:, place] = np.frombuffer(plane, np.uint8)
    words = octets.reshape(-1).view(f"<u{width}")
    if rotated:
        words = (words >> 1) | (words << (8 * width - 1))
    return words.tobytes() + bytes(tail)


def expand(packed: Bytes, bits: int, palette: Bytes, width: int, count: int) -> bytes:
    """Return the `count` words of `palette` that indices of `bits` name, the lowest bits first.

    Raises:
        ValueError: an index is beyond the palette, or a size is impossible.
    """
    if bits not in (1, 2, 4, 8) or width not in (1, 2, 4, 8):
        raise ValueError(f"indices of {bits} bits to words of {width}")
    entries = len(palette) // width
    if not 0 < entries <= 256 or len(packed) != (count * bits + 7) // 8:
        raise ValueError(f"{len(packed)} bytes of indices, {len(palette)} of a palette")
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    octets = np.frombuffer(packed, np.uint8)
    indices = ((octets[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)[:count]
    if count and (highest := int(indices.max())) >= entries:
        raise ValueError(f"index {highest} into a palette of {entries}")
    words: bytes = np.frombuffer(palette, f"<u{width}", entries)[indices].tobytes()
    return words
