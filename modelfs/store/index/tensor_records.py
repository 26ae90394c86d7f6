"""The records of tensors, and the kinds of rows of their sketches: layouts as in `records`."""

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from modelfs.codecs.elements import WIDTHS
from modelfs.errors import CorruptIndex
from modelfs.sketches.samples import OCTAVES, PER_OCTAVE
from modelfs.store.index.tables import check_size, checked_number, number_of


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One tensor of a file.

    Value layout::

        type       field
        u64        size   bytes; its start is in the key
        u8         length of dtype
        u8         number of dimensions
        bytes      dtype
        u64 each   dimensions
        bytes      name, UTF-8
    """

    start: int
    size: int
    dtype: str
    shape: tuple[int, ...]
    name: str

    HEAD: ClassVar[struct.Struct] = struct.Struct("<QBB")

    def to_bytes(self) -> bytes:
        dtype = self.dtype.encode()
        head = self.HEAD.pack(self.size, len(dtype), len(self.shape))
        dims = struct.pack(f"<{len(self.shape)}Q", *self.shape)
        return head + dtype + dims + self.name.encode(errors="surrogatepass")

    @classmethod
    def from_bytes(cls, start: int, value: bytes) -> Self:
        try:
            size, letters, dimensions = cls.HEAD.unpack_from(value)
            at = cls.HEAD.size + letters
            dtype = value[cls.HEAD.size : at].decode()
            shape = struct.unpack_from(f"<{dimensions}Q", value, at)
            name = value[at + 8 * dimensions :].decode(errors="surrogatepass")
        except (struct.error, ValueError) as exc:
            raise CorruptIndex(f"tensor row {value.hex()}: {exc}") from exc
        if at > len(value):
            raise CorruptIndex(f"tensor row {value.hex()}: it ends inside the dtype")
        return cls(start, size, dtype, shape, name)

    @classmethod
    def from_row(cls, key: bytes, value: bytes) -> Self:
        """Decode a row of the table `tensors`.

        Raises:
            CorruptIndex: the key is no inode, offset and ordinal, or see `from_bytes`.
        """
        check_size(key, 20)
        checked_number(key[:8])
        return cls.from_bytes(number_of(key[8:]), value)


class SketchKind(enum.IntEnum):
    """The kind of a row of the table `relatives`. Stored: never renumber."""

    EXACT = 1  # the hash is an exact key of the tensor
    BAND = 2  # the hash is that of a band
    ROW = 3  # the hash is that of a row; the value is the row's offset
    SAMPLES = 4  # the hash is 0; the value has the tensor's samples


def samples_fit(value: bytes) -> bool:
    """Whether bytes could be the samples of some tensor."""
    longest = 1 + OCTAVES * PER_OCTAVE * max(WIDTHS)
    return 2 <= len(value) <= longest and 1 <= value[0] <= PER_OCTAVE
