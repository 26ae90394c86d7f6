"""The protocols of codecs, and the numbers by which chunk records name them."""

import enum
from typing import Protocol

Bytes = bytes | memoryview  # contiguous, of single bytes


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
    """Decodes stored bytes without other chunks. Safe to use from many threads."""

    def decode(self, stored: bytes, size: int) -> bytes:
        """Return the `size` bytes that `stored` encodes.

        Raises:
            ValueError: `stored` does not encode so many bytes.
        """
        ...


class GeneralCodec(Codec, Protocol):
    """A codec for bytes of any kind, not only for arrays of numbers."""

    def encode(self, raw: bytes) -> bytes:
        """Return the stored form of `raw`, whether it is smaller or not."""
        ...


class Derivation(Protocol):
    """Decodes a payload, given the content of the sources: other chunks, or runs of them."""

    def decode(self, payload: bytes, size: int, source: bytes) -> bytes:
        """Return the `size` bytes that `payload` makes of `source`.

        Raises:
            ValueError: `payload` does not make so many bytes of `source`.
        """
        ...
