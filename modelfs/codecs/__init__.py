"""Bytes to fewer bytes and back, one codec a file. Pure."""

from typing import Final

from modelfs.codecs.base import Codec, CodecId, Derivation, GeneralCodec
from modelfs.codecs.cast import Cast
from modelfs.codecs.delta import Delta
from modelfs.codecs.factored import Factored
from modelfs.codecs.gather import Gather
from modelfs.codecs.narrow import Narrow
from modelfs.codecs.palette import Palette
from modelfs.codecs.planes import Planes
from modelfs.codecs.quantise import Quantise
from modelfs.codecs.raw import Raw
from modelfs.codecs.repeat import Repeat
from modelfs.codecs.transpose import Transpose
from modelfs.codecs.zstd import Zstd

# Codecs for bytes of any kind.
GENERAL: Final[dict[CodecId, GeneralCodec]] = {
    CodecId.RAW: Raw(),
    CodecId.ZSTD: Zstd(),
}

# A number off the disk becomes a CodecId where it is read, and each one has a row in these.
CODECS: Final[dict[CodecId, Codec]] = {
    **GENERAL,
    CodecId.PLANES: Planes(),
    CodecId.REPEAT: Repeat(),
    CodecId.PALETTE: Palette(),
    CodecId.NARROW: Narrow(),
    CodecId.FACTORED: Factored(),
}

DERIVATIONS: Final[dict[CodecId, Derivation]] = {
    CodecId.DELTA: Delta(),
    CodecId.CAST: Cast(),
    CodecId.TRANSPOSE: Transpose(),
    CodecId.GATHER: Gather(),
    CodecId.QUANTISE: Quantise(),
}
