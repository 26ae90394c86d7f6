"""Byte planes: byte k of every number together, each plane compressed on its own where it pays.

Trained weights have a random mantissa and an exponent of few values. Next to each other the
exponents compress and the mantissas are left alone, as in ZipNN (arXiv 2411.05239, sections 3 and
4), which names the grouping after the shuffle filters of HDF5 and Blosc. ZipNN moves the sign to
the low end of a float, so that its exponent fills one byte of BF16 and F32: here each word is
turned left by one bit.

Example. The BF16 words bf80 and 3f81 are turned to 7f01 and 7f02: the planes are 01 02 and 7f 7f.

Stored form::

    offset  size  field
    0       1     width    bytes per word: 1, 2, 4 or 8
    1       1     rotated  1: words were turned left by one bit; else 0
    2       t     tail     the last t = (size of the content) mod width bytes, as they are
    2+t     rest  planes   `pack` of `width` planes; plane 0 is the words' lowest byte

Packed planes::

    offset  size  field
    0       5n    heads   for each of n planes: u8 form, u32 its stored size (little-endian)
    5n      rest  bodies  in the same order

    form 0, RAW: the plane as it is
    form 1, ZSTD: one Zstandard frame with its content size
    form 2, CONSTANT: the one byte of which all of the plane consists

Planes are compressed by Huffman codes alone (`_HUFFMAN`), which zstd does when it finds no matches;
where a sample shows that matches pay, they are used, too. Both are ordinary frames. Measured on
all-MiniLM-L6-v2 in chunks of 1 MiB, on the plane of exponents of its BF16 cast, one core:

    zstd                        size     encode     decode
    level 1                     36.9 %   289 MB/s   1.16 GB/s
    level 3                     41.0 %   168 MB/s   0.76 GB/s
    fast, min_match 7, 2^14     36.2 %   314 MB/s   1.25 GB/s
    fast, min_match 7, 2^10     33.7 %   449 MB/s   1.74 GB/s
    fast, min_match 7, 2^6      33.0 %   847 MB/s   2.21 GB/s
    order-0 entropy             32.4 %

The smaller the hash table, the fewer matches that are accidents. A random plane needs no test
beforehand: that compressor gives up on it at over 3 GB/s.
"""

import struct
from collections.abc import Sequence
from functools import partial
from typing import Final

import zstandard

from modelfs.codecs.base import Bytes
from modelfs.codecs.elements import WIDTHS, Element
from modelfs.codecs.kernels.planes import merge, split
from modelfs.codecs.zstd import Zstd

_HEAD: Final = struct.Struct("<BI")
_RAW, _ZSTD, _CONSTANT = range(3)

# A plane that gets no smaller than this is not worth the time to decode it.
PLANE_MAX: Final = 0.97

_SAMPLE: Final = 16 << 10
_MATCHES_MAX: Final = 0.9  # of the size with Huffman codes alone: decoding takes twice as long


_HUFFMAN: Final = Zstd(
    partial(
        zstandard.ZstdCompressor,
        compression_params=zstandard.ZstdCompressionParameters(
            strategy=zstandard.STRATEGY_FAST,
            min_match=7,
            window_log=20,
            hash_log=6,
            chain_log=6,
            search_log=1,
            target_length=0,
        ),
    )
)
_MATCHES: Final = Zstd()


# -- planes in general


def pack(planes: Sequence[Bytes]) -> bytes:
    """Return the packed form of planes that are all of one length, however many."""
    coded = [_coded(plane) for plane in planes]
    heads = [_HEAD.pack(form, len(body)) for form, body in coded]
    return b"".join([*heads, *(body for _, body in coded)])


def unpack(packed: Bytes, count: int, length: int) -> list[Bytes]:
    """Return the `count` planes of `length` bytes of which `packed` is exactly the packed form.

    A plane that was stored raw is a view of `packed`.

    Raises:
        ValueError: `packed` is not the packed form of such planes.
    """
    view, start = memoryview(packed), count * _HEAD.size
    if len(view) < start:
        raise ValueError(f"{len(view)} bytes hold no {count} planes")
    planes: list[Bytes] = []
    for form, size in _HEAD.iter_unpack(view[:start]):
        body = view[start : start + size]
        if form == _ZSTD:
            planes.append(_HUFFMAN.decode(body, length))
        elif form == _CONSTANT and len(body) == 1:
            planes.append(bytes(body) * length)
        elif form == _RAW and len(body) == length:
            planes.append(body)
        else:
            raise ValueError(f"{len(body)} bytes of form {form} for a plane of {length}")
        start += size
    if start != len(view):
        raise ValueError(f"planes of {start} bytes in {len(view)}")
    return planes


def unpack_from(view: memoryview, start: int, count: int, length: int) -> tuple[list[Bytes], int]:
    """Return the planes that begin at `start`, as `unpack` does, and the offset of their end.

    Raises:
        ValueError: there are no such planes.
    """
    stop = start + count * _HEAD.size
    if len(view) < stop:
        raise ValueError(f"planes cut off after {len(view)} bytes")
    stop += sum(size for _, size in _HEAD.iter_unpack(view[start:stop]))
    return unpack(view[start:stop], count, length), stop


def _coded(plane: Bytes) -> tuple[int, Bytes]:
    """Return the smallest form of a plane, and its bytes in that form."""
    body = _HUFFMAN.encode(plane)
    middle = max(0, len(plane) - _SAMPLE) // 2
    sample = plane[middle : middle + _SAMPLE]
    if len(_MATCHES.encode(sample)) < _MATCHES_MAX * len(_HUFFMAN.encode(sample)):
        body = min(body, _MATCHES.encode(plane), key=len)
    if len(body) > PLANE_MAX * len(plane):
        return _RAW, plane
    if plane == bytes(plane[:1]) * len(plane):
        return _CONSTANT, plane[:1]
    return _ZSTD, body


# -- the codec


class Planes:
    """Byte planes of one kind of number."""

    def decode(self, stored: Bytes, size: int) -> bytes:
        if len(stored) < 2 or stored[0] not in WIDTHS or stored[1] > (stored[0] > 1):
            raise ValueError(f"no byte planes: {bytes(stored[:2]).hex()}")
        width, rotated = stored[0], stored[1] == 1
        start = 2 + size % width
        planes = unpack(memoryview(stored)[start:], width, size // width)
        if width == 1:
            return bytes(planes[0])
        return merge(planes, rotated, stored[2:start])


def encode(raw: bytes, element: Element) -> bytes:
    """Return the stored form of any bytes; smaller than they are or up to 42 bytes longer."""
    stop = len(raw) - len(raw) % element.width
    if element.width == 1:
        return bytes([1, 0]) + pack([raw])
    planes = split(raw[:stop], element.width, element.is_float)
    return bytes([element.width, element.is_float]) + raw[stop:] + pack(planes)
