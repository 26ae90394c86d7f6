"""Models with related tensors, stored and listed as by the optimizer."""

import json
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelfs.jobs.optimize.similarity import Candidate, SimilarityIndex
from modelfs.sketches.sketch import Sampler, Sketch
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.tables import InodeNumber
from modelfs.store.index.tensor_records import TensorRow
from modelfs.store.store import Store
from tests.support.stores import stored_file

Array = NDArray[Any]
DTYPES: Final = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int8": "I8", "uint8": "U8"}


def weights(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Return numbers like those of trained weights."""
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype(np.float32)


def tuned(values: NDArray[np.float32], seed: int = 1) -> NDArray[np.float32]:
    """Return values moved by a thousandth of their spread, as by fine-tuning."""
    return (values + weights(*values.shape, seed=1000 + seed) / 1000).astype(np.float32)


def bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to BF16 and return its bits: to nearest, ties to even."""
    words = values.view(np.uint32).astype(np.uint64)
    return ((words + 0x7FFF + (words >> 16 & 1)) >> 16).astype(np.uint16)


def quantised(values: NDArray[np.float32]) -> NDArray[np.int8]:
    """Quantise as ONNX Runtime does with matrices."""
    scale = np.float32(2 * float(np.abs(values).max()) / 254)
    return np.asarray(np.clip(np.rint(values / scale), -128, 127), np.int8)


def embedded(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Quantise as ONNX Runtime does with embeddings."""
    low, high = float(values.min()), float(values.max())
    scale = (high - low) / 255
    numbers = np.rint(values / np.float32(scale)) + np.float32(round(-low / scale))
    return np.asarray(np.clip(numbers, 0, 255), np.uint8)


def safetensors_of(tensors: dict[str, Array]) -> bytes:
    """Return a file of these tensors, in this order."""
    at = 0
    header = {}
    for name, values in tensors.items():
        header[name] = {
            "dtype": DTYPES[str(values.dtype)],
            "shape": values.shape,
            "data_offsets": (at, at + values.nbytes),
        }
        at += values.nbytes
    text = json.dumps(header).encode()
    content = b"".join(np.ascontiguousarray(each).tobytes() for each in tensors.values())
    return struct.pack("<Q", len(text)) + text + content


class Model:
    """A stored file of tensors."""

    def __init__(self, store: Store, name: str, content: bytes) -> None:
        self.store = store
        self.inode = stored_file(store, name.encode(), content)
        self.table = TensorTable(store.index)
        self.similarity = SimilarityIndex(store)

    def has(self, name: str) -> bool:
        return any(each.name == name for each in self.table.spans(self.inode))

    def row(self, name: str) -> TensorRow:
        """Return the row of a tensor."""
        (span,) = (each for each in self.table.spans(self.inode) if each.name == name)
        row = self.table.find(self.inode, span.start)
        assert row is not None
        return row

    def sketch(self, name: str) -> Sketch:
        row = self.row(name)
        sampler = Sampler(row.dtype, row.shape, row.size)
        sampler.feed(0, self.store.contents.read(self.inode, row.start, row.size))
        sketch = sampler.sketch()
        assert sketch is not None
        return sketch

    def put(self, *names: str) -> None:
        """List these tensors as candidates for others."""
        with self.store.index.change():
            for name in names:
                self.similarity.put(self.inode, self.row(name), self.sketch(name))

    def candidates(self, name: str) -> list[Candidate]:
        return self.similarity.candidates(self.inode, self.row(name), self.sketch(name))

    def related(self, name: str) -> list[tuple[str, InodeNumber, str]]:
        """Return relation, file and name of each candidate."""
        return [(each.relation.name, each.inode, each.row.name) for each in self.candidates(name)]


def stored_model(store: Store, name: str, **tensors: Array) -> Model:
    """Store a file of these tensors."""
    return Model(store, name, safetensors_of(tensors))
