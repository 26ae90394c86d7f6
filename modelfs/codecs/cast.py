"""Cast: floats that are exactly those of another tensor, rounded to a narrower type or widened.

Rounding is to nearest, ties to even (IEEE 754, 4.3.1); numbers that are too large become infinity.
A NaN becomes the one that torch makes of a single number (c10/util/BFloat16.h, Half.h): 0x7FC0 in
BF16, the sign and 0x7E00 in F16; from F64 it keeps its sign and the high bits of its payload and
becomes quiet, as on x86-64 and arm64. A tensor that a cast does not give bit by bit gets another
form.

Payload::

    offset  size  field
    0       1     from  `Element.code` of the source's numbers
    1       1     to    `Element.code` of the content's numbers

Example. F32 to BF16 has the payload `84 82`. The words 3f808000 and 3f818000, halfway between two
numbers of BF16, become 3f80 and 3f82.
"""

from typing import Final

from modelfs.codecs.base import Bytes
from modelfs.codecs.elements import Element, element_of
from modelfs.codecs.kernels.casts import cast

# The kernels' numbers of the casts, by payload.
_CASTS: Final[dict[bytes, int]] = {
    bytes([element_of(source).code, element_of(target).code]): number
    for number, source, target in (
        (1, "F32", "BF16"),
        (2, "F32", "F16"),
        (3, "F64", "F32"),
        (4, "BF16", "F32"),
        (5, "F16", "F32"),
    )
}


class Cast:
    """The source, cast."""

    def decode(self, payload: Bytes, size: int, source: Bytes) -> bytes:
        number = _CASTS.get(bytes(payload))
        if number is None:
            raise ValueError(f"no such cast: {bytes(payload[:8]).hex()}")
        width, narrow = (Element.from_code(code).width for code in payload)
        if len(source) % width or len(source) // width * narrow != size:
            raise ValueError(f"{size} bytes cast from {len(source)}")
        return cast(source, number)


def encode(source: Element, target: Element) -> bytes:
    """Return the payload for a cast. Whether there is such a cast is not checked."""
    return bytes([source.code, target.code])
