"""The smallest of the forms in which a tensor's bytes decode by themselves."""

from collections.abc import Callable
from typing import Final

from modelfs.codecs import factored, narrow, palette, planes, repeat
from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import Element
from modelfs.codecs.factored import Grid

Encode = Callable[[bytes, Element], bytes | None]

# Saving less than 3 % is not worth a decode at every first read.
CODED_MAX: Final = 0.97
# Of the next best form, which decodes faster (`planes` at 5 GB/s, `factored` at 1.1).
FACTORED_MAX: Final = 0.98

_FORMS: Final[tuple[tuple[CodecId, Encode], ...]] = (
    (CodecId.NARROW, narrow.encode),
    (CodecId.PALETTE, palette.encode),
    (CodecId.PLANES, planes.encode),
)


def encode_tensor(raw: bytes, element: Element, grid: Grid | None = None) -> tuple[CodecId, bytes]:
    """Return the smallest form of a piece of a tensor; RAW and `raw` itself where none pays.

    Args:
        raw: the piece.
        element: the numbers of the tensor.
        grid: where in a matrix the piece lies, if it is known.
    """
    best, least = (CodecId.RAW, raw), CODED_MAX * len(raw)
    repeated = repeat.encode(raw, element)
    if repeated is not None and len(repeated) <= least:
        return CodecId.REPEAT, repeated
    for codec, encode in _FORMS:
        stored = encode(raw, element)
        if stored is not None and len(stored) <= least:
            best, least = (codec, stored), len(stored)
    stored = factored.encode(raw, element, grid)
    if stored is not None and len(stored) <= FACTORED_MAX * least:
        return CodecId.FACTORED, stored
    return best
