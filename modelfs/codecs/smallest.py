"""The smallest of the forms in which a tensor's bytes decode by themselves."""

from collections.abc import Callable
from typing import Final

from modelfs.codecs import narrow, palette, planes, repeat
from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import Element

Encode = Callable[[bytes, Element], bytes | None]

# Saving less than 3 % is not worth a decode at every first read.
CODED_MAX: Final = 0.97

_FORMS: Final[tuple[tuple[CodecId, Encode], ...]] = (
    (CodecId.NARROW, narrow.encode),
    (CodecId.PALETTE, palette.encode),
    (CodecId.PLANES, planes.encode),
)


def encode_tensor(raw: bytes, element: Element) -> tuple[CodecId, bytes]:
    """Return the smallest form of a piece of a tensor; RAW and `raw` itself where none pays."""
    best, least = (CodecId.RAW, raw), CODED_MAX * len(raw)
    repeated = repeat.encode(raw, element)
    if repeated is not None and len(repeated) <= least:
        return CodecId.REPEAT, repeated
    for codec, encode in _FORMS:
        stored = encode(raw, element)
        if stored is not None and len(stored) <= least:
            best, least = (codec, stored), len(stored)
    return best
