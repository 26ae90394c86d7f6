"""Narrow: numbers of a type that is wider than they need, as byte planes of a narrower one.

Checkpoints of models trained in half precision and saved as F32, position ids in I64. Byte planes
of the wide type come close in size; the narrow type has half the planes to decode, or fewer.

Example. The position ids 0, 1, 2, 3 in I64, 32 bytes, have form 9 (U8 to U64) and one plane
of 4 bytes.

Stored form::

    offset  size  field
    0       1     form    the row of `_FORMS`: from which type to which
    1       t     tail    the last t = (size of the content) mod (bytes of the wide type) bytes
    1+t     rest  planes  `planes` of the narrow numbers

The machine converts floats, which all machines do to the same bits, but for two kinds: NaNs may be
quieted, and F32 subnormals flushed if a library has set the processor to that. Chunks with such
numbers are not narrowed. F16 subnormals are exact. (x86: VCVTPH2PS ignores MXCSR.DAZ, CVTSS2SD
obeys it; Intel's manual, volume 2.)
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelfs.codecs import planes
from modelfs.codecs.elements import Element
from modelfs.codecs.planes import Planes

_Numbers = NDArray[Any]

_TRIAL: Final = 1 << 10  # numbers that are narrowed before all of them


@dataclass(frozen=True, slots=True)
class _Form:
    """How numbers become wider. A shift makes F32 of the bits of BF16."""

    narrow: np.dtype[Any]
    wide: np.dtype[Any]
    exponent: int = 0  # bits of the narrow type's
    shift: int = 0

    @property
    def element(self) -> Element:
        return Element(self.narrow.itemsize, self.exponent)

    def widened(self, narrow: _Numbers) -> _Numbers:
        wide = narrow.astype(self.wide)
        return wide << self.shift if self.shift else wide

    def narrowed(self, words: _Numbers) -> _Numbers | None:
        """Return the numbers that widen to exactly `words`, the bits of the wide type; or None."""
        with np.errstate(all="ignore"):
            narrow = words.view(self.wide) >> self.shift if self.shift else words.view(self.wide)
            narrow = narrow.astype(self.narrow)
        if self.narrow.kind == "f" and not _is_portable(narrow):
            return None
        return narrow if np.array_equal(self.widened(narrow).view(words.dtype), words) else None


def _is_portable(numbers: _Numbers) -> bool:
    """Whether all machines widen these floats to the same bits."""
    if np.isnan(numbers).any():
        return False
    if numbers.itemsize == 2:
        return True
    # Not the operator `<`: Atheris 3.0 leaks its result.
    small = np.less(np.abs(numbers), np.finfo(numbers.dtype).smallest_normal)
    return not numbers[small].any()


def _form(narrow: str, wide: str, exponent: int = 0, shift: int = 0) -> _Form:
    return _Form(np.dtype(f"<{narrow}"), np.dtype(f"<{wide}"), exponent, shift)


# The rows are stored: never reorder. For each wide type the narrowest come first.
_FORMS: Final = (
    _form("u2", "u4", exponent=8, shift=16),
    _form("f2", "f4", exponent=5),
    _form("f4", "f8", exponent=8),
    _form("u1", "u2"),
    _form("i1", "i2"),
    _form("u1", "u4"),
    _form("i1", "i4"),
    _form("u2", "u4"),
    _form("i2", "i4"),
    _form("u1", "u8"),
    _form("i1", "i8"),
    _form("u2", "u8"),
    _form("i2", "i8"),
    _form("u4", "u8"),
    _form("i4", "i8"),
)
_FLOATS: Final = 3  # rows at the start

_PLANES: Final = Planes()


class Narrow:
    """Byte planes of a narrower type."""

    def decode(self, stored: bytes, size: int) -> bytes:
        if not stored or stored[0] >= len(_FORMS):
            raise ValueError(f"no such form of narrow numbers: {stored[:1].hex()}")
        form = _FORMS[stored[0]]
        count, rest = divmod(size, form.wide.itemsize)
        body = memoryview(stored)[1 + rest :]
        narrow = _PLANES.decode(body, count * form.narrow.itemsize)
        return form.widened(np.frombuffer(narrow, form.narrow)).tobytes() + stored[1 : 1 + rest]


def encode(raw: bytes, element: Element) -> bytes | None:
    """Return the stored form of numbers that a narrower type holds exactly, None of others."""
    words = np.frombuffer(raw, f"<u{element.width}", len(raw) // element.width)
    first, stop = (0, _FLOATS) if element.is_float else (_FLOATS, len(_FORMS))
    for number in range(first, stop):
        form = _FORMS[number]
        if form.wide.itemsize != element.width or form.narrowed(words[:_TRIAL]) is None:
            continue
        if (narrow := form.narrowed(words)) is not None:
            body = planes.encode(narrow.tobytes(), form.element)
            return bytes([number]) + raw[words.nbytes :] + body
    return None
