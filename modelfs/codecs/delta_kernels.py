"""The loops of the codecs that derive a tensor from another: compiled where they could be."""

try:
    from modelfs.codecs._delta import cast, differ, restore, scatter, transpose, widen
except ImportError:
    from modelfs.codecs.delta_numpy import cast, differ, restore, scatter, transpose, widen

__all__ = ["cast", "differ", "restore", "scatter", "transpose", "widen"]
