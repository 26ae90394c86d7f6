"""Delta: numbers as small steps from those of a base, as a fine-tuned tensor's from the original's.

The step of a float is its distance from the base's in units in the last place, for any bits, NaN
included, and positive if it leads away from zero; of an integer it is the difference. A block of 64
words has a *scale*: by it the low bits of each (zigzag) step are noise and stored as they are. The
rest is a *token* of a byte, coded by zstd. A *table* predicts the steps that weight decay makes.
docs/design/deltas.md has the reasons, and the forms that were rejected.

Example. Three weights of F32 move by 0.00001, the block's scale is 192::

    base    new       exponent  step    zigzag  low bits  token
    1.0     1.00001   127       84      168     1         84
    -0.5    -0.50001  126       168     336     2         84
    0.001   0.00101   117       85899   171798  11        83

Stored form (little-endian)::

    offset  size  field
    0       1     width      bytes per word: 1, 2, 4 or 8
    1       1     exponent   bits of the exponent; 0: integers
    2       1     bits       of the mantissa that the table goes by; 0: no table
    3       2     classes    bit k: there are tokens of class k
    5       t     tail       the last t = (size of the content) mod width bytes, as they are
    5+t     ..    scales     `planes.pack` of 2 byte planes: u16 per block; 0: all steps are 0
            ..    table      `planes.pack` of 4: i32 differences of its 2^bits entries; if bits > 0
            ..    lows       section: low bits of the words in blocks with a scale, lowest first
            ..    escapes    section: words that stand for tokens of 255, in the words' order
            ..    tokens     of each class that there is

    section                  u32 its size, then `planes.pack` of 1 plane
    tokens                   u32 their count, u8 form, then `planes.pack` of 1 plane

    form 0: a byte each
    form 1, 2: 4 or 2 bits each, lowest first; all ones stand for the next byte of a section behind

With depth = scale - 64 - exponent of the base's word, and cap = bits of the mantissa - 2 (integers:
of the word - 8)::

    depth > cap       class 11, cap low bits
    depth 0 to cap    class 0, depth low bits
    depth < 0         class min(-depth, 10), no low bits

Steps are modulo 2^w, w being the bits of a word. A base that is longer is cut; one that is shorter
goes on with zeros.

Measured on fine-tunes of all-MiniLM-L6-v2: F32 29.1 % of its size (byte planes of steps 36.7), BF16
7.3 (9.1); decoded at 1.6 and 1.0 GB/s by one core.
"""

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from modelfs.codecs.base import Bytes
from modelfs.codecs.bits import pack_bits
from modelfs.codecs.elements import WIDTHS, Element
from modelfs.codecs.kernels.delta import differ, restore, scatter, widen
from modelfs.codecs.kernels.delta_streams import BLOCK, CLASSES, Streams
from modelfs.codecs.kernels.planes import merge, split
from modelfs.codecs.planes import pack, unpack_from

_HEAD: Final = struct.Struct("<BBBH")
_SIZE: Final = struct.Struct("<I")
_TOKENS: Final = struct.Struct("<IB")

_BIAS: Final = 64
_BITS: Final = (8, 4, 2)  # of a token, by form
_TABLE_MAX: Final = 16  # bits

# How an encoder chooses; a decoder does not care.
_TOKEN_BITS: Final = 7  # of the largest step in a block
_BELOW, _ABOVE = 4, 2  # scales this near to the usual one are replaced by it
_TABLE_BITS: Final = (10, 7)
_TABLE_COUNT: Final = 1 << 12  # fewer words do not pay for a table
_SAMPLE: Final = 1 << 15

_Ints = npt.NDArray[np.int64]


# -- decoding


class Delta:
    """Steps from the words of the source."""

    def decode(self, payload: Bytes, size: int, source: Bytes) -> bytes:
        view = memoryview(payload)
        if len(view) < _HEAD.size:
            raise ValueError(f"{len(view)} bytes are no delta")
        width, exponent, bits, classes = _HEAD.unpack_from(view)
        if width not in WIDTHS or bits > _TABLE_MAX or classes >> CLASSES:
            raise ValueError(f"no delta: width {width}, table of {bits} bits, classes {classes:b}")
        tail = view[_HEAD.size : _HEAD.size + size % width]
        reader = _Reader(view, _HEAD.size + size % width)
        streams = _read_streams(reader, size, width, bits, classes)
        reader.end()
        return restore(_fitted(source, size - size % width), width, exponent, streams, tail)


def _read_streams(reader: "_Reader", size: int, width: int, bits: int, classes: int) -> Streams:
    count = size // width
    scales = reader.words(2, -(-count // BLOCK))
    table = b""
    if bits:
        steps = np.frombuffer(reader.words(4, 1 << bits), "<i4")
        table = np.cumsum(steps, dtype="<i4").tobytes()
    lows = reader.section(size)
    escapes = reader.section(size)
    tokens: list[Bytes] = []
    for place in range(CLASSES):
        tokens.append(reader.tokens(count) if classes >> place & 1 else b"")
        count -= len(tokens[-1])
    return Streams(table, scales, tokens, lows, escapes)


class _Reader:
    """Reads the parts of a delta in order, and refuses a part longer than the content allows."""

    def __init__(self, view: memoryview, start: int) -> None:
        self._view = view
        self._start = start

    def words(self, width: int, count: int) -> bytes:
        return merge(self._planes(width, count), False, b"")

    def section(self, most: int) -> Bytes:
        (size,) = self._numbers(_SIZE)
        if size > most:
            raise ValueError(f"{size} bytes where there are {most} at most")
        return self._planes(1, size)[0]

    def tokens(self, most: int) -> Bytes:
        count, form = self._numbers(_TOKENS)
        if count > most or form >= len(_BITS):
            raise ValueError(f"{count} tokens of form {form}, of {most} at most")
        bits = _BITS[form]
        packed = self._planes(1, -(-count * bits // 8))[0]
        if bits == 8:
            return packed
        return widen(packed, bits, self.section(count), count)

    def end(self) -> None:
        if self._start != len(self._view):
            raise ValueError(f"a delta of {self._start} bytes in {len(self._view)}")

    def _numbers(self, layout: struct.Struct) -> tuple[int, ...]:
        if len(self._view) < self._start + layout.size:
            raise ValueError(f"a delta cut off after {len(self._view)} bytes")
        numbers = layout.unpack_from(self._view, self._start)
        self._start += layout.size
        return numbers

    def _planes(self, count: int, length: int) -> list[Bytes]:
        planes, self._start = unpack_from(self._view, self._start, count, length)
        return planes


def _fitted(base: Bytes, size: int) -> Bytes:
    if len(base) >= size:
        return memoryview(base)[:size]
    return b"".join([base, bytes(size - len(base))])


# -- encoding


def encode(raw: Bytes, base: Bytes, element: Element) -> bytes:
    """Return the payload that makes `raw` of `base`: of any bytes, whether it is smaller or not."""
    width, exponent = element.width, element.exponent
    stop = len(raw) - len(raw) % width
    words, base = memoryview(raw)[:stop], _fitted(base, stop)
    bits, table = _table(words, base, element)
    zigzag, peaks = differ(words, base, width, exponent, table)
    scales = _scales(peaks)
    tokens, lows, escapes = scatter(zigzag, base, width, exponent, scales)
    classes = sum(1 << place for place, of_class in enumerate(tokens) if of_class)
    parts = [_HEAD.pack(width, exponent, bits, classes), bytes(raw[stop:])]
    parts += [pack(split(scales, 2, False)), _packed_table(table)]
    parts += [_section(lows), _section(escapes)]
    parts += [_packed_tokens(of_class) for of_class in tokens if of_class]
    return b"".join(parts)


def _section(plane: bytes) -> bytes:
    return _SIZE.pack(len(plane)) + pack([plane])


def _packed_table(table: bytes) -> bytes:
    if not table:
        return b""
    steps = np.diff(np.frombuffer(table, "<i4"), prepend=np.int32(0))
    return pack(split(steps.tobytes(), 4, False))


def _packed_tokens(tokens: bytes) -> bytes:
    values = np.frombuffer(tokens, np.uint8)
    counts = np.bincount(values, minlength=16)
    # The form of fewest bits for which hardly any token is too large.
    form = 0
    if counts[3:].sum() * 64 < len(values):
        form = 2
    elif counts[15:].sum() * 64 < len(values) < counts[:3].sum() * 4:
        form = 1
    head, bits = _TOKENS.pack(len(tokens), form), _BITS[form]
    if bits == 8:
        return head + pack([tokens])
    largest = (1 << bits) - 1
    packed = pack_bits(np.minimum(values, largest), bits)
    return head + pack([packed]) + _section(values[values >= largest].tobytes())


def _scales(peaks: bytes) -> bytes:
    """Return the usual scale for most blocks, so that equal depths mean equal distributions."""
    tops = np.frombuffer(peaks, "<u2").astype(np.int64)
    moved = tops > 0
    if not moved.any():
        return bytes(len(peaks))
    usual = int(np.percentile(tops[moved], 75))
    near = (tops >= usual - _BELOW) & (tops <= usual + _ABOVE)
    scales = np.where(near, usual, tops) - _TOKEN_BITS + _BIAS
    return np.where(moved, scales, 0).astype("<u2").tobytes()


def _table(raw: Bytes, base: Bytes, element: Element) -> tuple[int, bytes]:
    """Return the table that saves most, and how many bits it goes by; none where none pays."""
    width, mantissa = element.width, 8 * element.width - 1 - element.exponent
    count = len(raw) // width
    if not element.is_float or mantissa < max(_TABLE_BITS) or count < _TABLE_COUNT:
        return 0, b""
    stride = -(-count // _SAMPLE)
    old, new = (np.frombuffer(words, f"<u{width}")[::stride] for words in (base, raw))
    zigzag, _ = differ(new.tobytes(), old.tobytes(), width, element.exponent, b"")
    words = np.frombuffer(zigzag, f"<u{width}")
    steps = (words >> 1).astype(np.int64) ^ -(words & 1).astype(np.int64)
    steps = steps.clip(-(1 << 30), 1 << 30)
    best, chosen = 0.0, (0, b"")
    for bits in _TABLE_BITS:
        entries = ((old >> (mantissa - bits)) & ((1 << bits) - 1)).astype(np.int64)
        table = _medians(entries[::2], steps[::2], 1 << bits)
        # Measured on words that the table was not made from, since a median fits some noise.
        gain = _bits(steps[1::2]) - _bits(steps[1::2] - table[entries[1::2]])
        coded = table.astype("<i4").tobytes()
        gain = gain * count / len(steps[1::2]) - 8 * len(_packed_table(coded))
        if gain > best:
            best, chosen = gain, (bits, coded)
    return chosen


def _medians(entries: _Ints, steps: _Ints, count: int) -> _Ints:
    """Return the median step of each entry; 0 of an entry without steps."""
    keys = np.sort((entries << 32) + steps + (1 << 31))
    starts = np.searchsorted(keys, np.arange(count + 1) << 32)
    middles = keys[np.minimum((starts[:-1] + starts[1:]) // 2, len(keys) - 1)]
    return np.where(starts[1:] > starts[:-1], (middles & 0xFFFFFFFF) - (1 << 31), 0)


def _bits(steps: _Ints) -> float:
    """Return about how many bits steps take together."""
    return float(np.log2(1 + np.abs(steps)).sum())
