"""The loops of the codecs that need no other tensor: compiled where they could be, else numpy's."""

try:
    from modelfs.codecs.kernels._planes import expand, merge, split
except ImportError:
    from modelfs.codecs.kernels.planes_numpy import expand, merge, split

__all__ = ["expand", "merge", "split"]
