"""The streams that a delta consists of."""

from typing import NamedTuple

from modelfs.codecs.base import Bytes

BLOCK = 64  # words that share a scale
CLASSES = 12


class Streams(NamedTuple):
    """As `delta` describes them, uncompressed."""

    table: Bytes
    scales: Bytes
    tokens: list[Bytes]  # of each class
    lows: Bytes
    escapes: Bytes
