"""The loops of casts and transposes: compiled where they could be, else numpy's."""

try:
    from modelfs.codecs._exact import cast, transpose
except ImportError:
    from modelfs.codecs.exact_numpy import cast, transpose

__all__ = ["cast", "transpose"]
