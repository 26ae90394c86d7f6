"""The loops of deltas: compiled where they could be, else numpy's."""

try:
    from modelfs.codecs.kernels._delta import differ, restore, scatter, widen
except ImportError:
    from modelfs.codecs.kernels.delta_numpy import differ, restore, scatter, widen

__all__ = ["differ", "restore", "scatter", "widen"]
