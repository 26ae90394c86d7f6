"""What a codec is, and the numbers by which stored chunks name theirs."""

import enum
from typing import Protocol

Bytes = bytes | memoryview  # what a codec's own parts take; contiguous, of single bytes


class CodecId(enum.IntEnum):
    """Stored in every chunk record: never renumber.

    Below 16 a chunk decodes by itself; from 16 on it needs the bytes of others.
    """

    RAW = 0
    ZSTD = 1
    PLANES = 2
    REPEAT = 3
    PALETTE = 4
    NARROW = 5
    FACTORED = 6
    DELTA = 16
    CAST = 17
    TRANSPOSE = 18
    GATHER = 19
    QUANTISE = 20


class Codec(Protocol):
    """Turns what is stored back into content, by itself. Safe to use from many threads."""

    def decode(self, stored: bytes, size: int) -> bytes:
        """Return the `size` bytes that `stored` was made from.

        Raises:
            ValueError: `stored` is not the encoding of anything of that size.
        """
        ...


class GeneralCodec(Codec, Protocol):
    """A codec for any bytes, that need be no array of numbers."""

    def encode(self, raw: bytes) -> bytes:
        """Return the stored form of `raw`, whether it is smaller or not."""
        ...


class Derivation(Protocol):
    """Turns what is stored back into content, given the content of other chunks."""

    def decode(self, payload: bytes, size: int, source: bytes) -> bytes:
        """Return the `size` bytes that `payload` makes of `source`.

        Raises:
            ValueError: `payload` does not make anything of that size of `source`.
        """
        ...
