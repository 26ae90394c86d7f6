"""Do the frameworks load a mounted copy of the sample models, with every byte of the originals?

tools/quickstart_check.py ORIGINALS COPIES
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
from safetensors.numpy import load_file

ONNX_MODELS = ("base.onnx", "base-external.onnx")
IDS = np.array([3, 1, 200, 3], np.int64)  # rows of the embedding


class Mismatch(Exception):
    """A copy differs from its original."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("originals", type=Path, help="the folder of the sample models")
    parser.add_argument("copies", type=Path, help="the copy of that folder in a mount")
    options = parser.parse_args()
    originals, copies = options.originals, options.copies
    try:
        rows = [*check_safetensors(originals, copies), *check_onnx(originals, copies)]
        rows += check_sums(originals, copies)
    except Mismatch as exc:
        print(f"  FAILED: {exc}", file=sys.stderr)
        return 1
    for reader, name, result in rows:
        print(f"  {reader:<12} {name:<28} {result}")
    return 0


def check_safetensors(originals: Path, copies: Path) -> Iterator[tuple[str, str, str]]:
    """Load every safetensors file on both sides; tensors must be equal bit for bit."""
    for original in sorted(originals.glob("*.safetensors")):
        expected, got = load_file(original), load_file(copies / original.name)
        if expected.keys() != got.keys():
            raise Mismatch(f"{original.name}: has tensors {sorted(got)}, not {sorted(expected)}")
        for name, tensor in expected.items():
            # Compared as bytes, because a NaN does not equal itself.
            if got[name].dtype != tensor.dtype or got[name].tobytes() != tensor.tobytes():
                raise Mismatch(f"{original.name}: tensor {name} differs")
        yield "safetensors", original.name, f"{len(got)} tensors equal"


def check_onnx(originals: Path, copies: Path) -> Iterator[tuple[str, str, str]]:
    """Parse and run every ONNX model on both sides; outputs must be equal."""
    for name in ONNX_MODELS:
        if onnx.load(copies / name) != onnx.load(originals / name):
            raise Mismatch(f"{name}: onnx.load returns another model")
        yield "onnx", name, "equal"
    expected = infer(originals / ONNX_MODELS[0])
    for name in ONNX_MODELS:
        got = infer(copies / name)
        if not np.array_equal(got, expected):
            raise Mismatch(f"{name}: onnxruntime computes another output")
        yield "onnxruntime", name, f"output {got.shape[0]} x {got.shape[1]} equal"


def infer(model: Path) -> np.ndarray:
    """Return the model's output for `IDS`, float32 of shape [len(IDS), 384]."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (output,) = session.run(["z"], {"ids": IDS})
    return np.asarray(output)


def check_sums(originals: Path, copies: Path) -> Iterator[tuple[str, str, str]]:
    """Compare the SHA-256 of every file."""
    names = sorted(path.name for path in originals.iterdir())
    if sorted(path.name for path in copies.iterdir()) != names:
        raise Mismatch(f"{copies} does not have the same names as {originals}")
    for name in names:
        digest = sha256(copies / name)
        if digest != sha256(originals / name):
            raise Mismatch(f"{name}: SHA-256 differs")
        yield "sha256", name, f"{digest[:16]}... equal"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
