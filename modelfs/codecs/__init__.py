"""Bytes to fewer bytes and back, one codec a file. Pure."""

from typing import Final

from modelfs.codecs.base import Codec, CodecId
from modelfs.codecs.raw import Raw
from modelfs.codecs.zstd import Zstd

# A number off the disk becomes a CodecId where it is read, so a look-up here cannot fail.
CODECS: Final[dict[CodecId, Codec]] = {
    CodecId.RAW: Raw(),
    CodecId.ZSTD: Zstd(),
}
