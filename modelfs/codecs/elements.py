"""The numbers of a tensor, as codecs see them: their width, and the place of their exponent."""

from dataclasses import dataclass
from typing import Final, Self

WIDTHS: Final = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Element:
    """One number. A float has, from its highest bit down: a sign, `exponent` bits, a mantissa."""

    width: int  # bytes: 1, 2, 4 or 8
    exponent: int = 0  # bits; 0: an integer

    @property
    def is_float(self) -> bool:
        return self.exponent > 0

    @property
    def code(self) -> int:
        """One byte that stands for the element in stored records; never 0."""
        return self.width | self.exponent << 4

    @classmethod
    def from_code(cls, code: int) -> Self:
        """Return the element with that code; plain bytes if there is none."""
        width, exponent = code & 15, code >> 4
        return cls(width, exponent) if width in WIDTHS else cls(1)


PLAIN: Final = Element(1)

# By the names of safetensors ("Dtype" in its tensor.rs) and, for C128, of ONNX. A complex number
# is two floats. F8_E8M0 has no sign and no mantissa, so it is an integer here.
_ELEMENTS: Final[dict[str, Element]] = {
    "F64": Element(8, 11),
    "F32": Element(4, 8),
    "F16": Element(2, 5),
    "BF16": Element(2, 8),
    "F8_E4M3": Element(1, 4),
    "F8_E4M3FNUZ": Element(1, 4),
    "F8_E5M2": Element(1, 5),
    "F8_E5M2FNUZ": Element(1, 5),
    "C64": Element(4, 8),
    "C128": Element(8, 11),
    "I64": Element(8),
    "U64": Element(8),
    "I32": Element(4),
    "U32": Element(4),
    "I16": Element(2),
    "U16": Element(2),
}


def element_of(dtype: str) -> Element:
    """Return the element of a dtype; plain bytes if it has 8 bits or fewer and no exponent."""
    return _ELEMENTS.get(dtype, PLAIN)
