"""The loops of casts and transposes: compiled where they could be, else numpy's."""

try:
    from modelfs.codecs.kernels._casts import cast, transpose
except ImportError:
    from modelfs.codecs.kernels.casts_numpy import cast, transpose

__all__ = ["cast", "transpose"]
