"""What a codec is, and the numbers by which stored chunks name theirs."""

import enum
from typing import Protocol


class CodecId(enum.IntEnum):
    """Stored in every chunk record: never renumber."""

    RAW = 0
    ZSTD = 1


class Codec(Protocol):
    """Turns bytes into fewer bytes and back."""

    def encode(self, raw: bytes) -> bytes:
        """Return the stored form of `raw`, whether it is smaller or not."""
        ...

    def decode(self, stored: bytes, size: int) -> bytes:
        """Return the `size` bytes that `stored` was made from.

        Raises:
            ValueError: `stored` is not the encoding of anything of that size.
        """
        ...
