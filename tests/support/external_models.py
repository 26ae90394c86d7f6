"""Models with external data."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.stores import CHUNK, noise

# Offsets and sizes of the tensors in data files: not on the plain grid.
TENSORS = [(100, 5000), (5100, 3000)]
DATA = noise(9000)
STARTS = [0, 100, 100 + CHUNK, 5100, 8100]


def model_naming(location: str, tensors: Sequence[tuple[int, int]] = TENSORS) -> bytes:
    """Return an ONNX model with its weights at `location`, by offset and size."""
    weights: list[onnx.TensorProto] = []
    for number, (offset, size) in enumerate(tensors):
        values = np.zeros(size, np.uint8)
        weight = helper.make_tensor(f"w{number}", onnx.TensorProto.UINT8, [size], values, raw=True)
        onnx.external_data_helper.set_external_data(weight, location, offset, size)
        weight.ClearField("raw_data")
        weights.append(weight)
    graph = helper.make_graph([], "graph", [], [], initializer=weights)
    return bytes(helper.make_model(graph).SerializeToString())


def starts(store: Store, inode: InodeNumber) -> list[int]:
    """Return the starts of a file's extents."""
    return store.maps.starts(inode, 0, 100)[0]
