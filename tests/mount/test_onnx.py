"""onnx and onnxruntime write to a mount and read from it, in processes of their own."""

import shutil
from pathlib import Path

import pytest

from tests.support.mounts import Mount, drop_kernel_caches, run_python
from tests.support.paths import MODELS

pytestmark = pytest.mark.mount

# A chain of four matrices, one of them over onnx's limit for inline data.
SAVE = """
    import sys
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(int(sys.argv[3]))
    sizes = [64, 300, 64, 128, 16]
    weights, nodes = [], []
    for n, shape in enumerate(zip(sizes, sizes[1:])):
        matrix = (rng.standard_normal(shape) / 8).astype("f4")
        weights.append(numpy_helper.from_array(matrix, f"w{n}"))
        nodes.append(helper.make_node("MatMul", [f"x{n}", f"w{n}"], [f"x{n + 1}"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in (("x0", sizes[0]), ("x4", sizes[-1]))
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    external = {
        "inline": {},
        "one file": {"save_as_external_data": True, "location": "weights.bin"},
        "many files": {"save_as_external_data": True, "all_tensors_to_one_file": False},
    }
    onnx.save(model, sys.argv[1], **external[sys.argv[2]])
"""

# Prints the output of the model, to the last bit.
RUN = """
    import sys
    import numpy as np
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    [end] = session.get_inputs()
    if end.type == "tensor(int64)":
        given = np.arange(0, 200, 7)
    else:
        given = np.linspace(-1, 1, 64, dtype="f4")[None]
    print(session.run(None, {end.name: given})[0].tobytes().hex())
"""

# Prints a digest of every weight that onnx itself loads.
LOAD = """
    import hashlib, sys
    import onnx
    from onnx import numpy_helper

    model = onnx.load(sys.argv[1])
    onnx.checker.check_model(sys.argv[1])
    for weight in model.graph.initializer:
        data = numpy_helper.to_array(weight).tobytes()
        print(weight.name, hashlib.sha256(data).hexdigest())
"""


@pytest.mark.parametrize("kind", ["inline", "one file", "many files"])
def test_save_load_run(here: Path, tmp_path: Path, shared_mount: Mount, kind: str) -> None:
    """A model saved to a mount loads and computes as one saved to a plain folder."""
    for folder in (here, tmp_path):
        run_python(SAVE, folder / "m.onnx", kind, "1")
    for client in (LOAD, RUN):
        assert run_python(client, here / "m.onnx") == run_python(client, tmp_path / "m.onnx")
    shared_mount.sync()
    drop_kernel_caches()
    for client in (LOAD, RUN):
        assert run_python(client, here / "m.onnx") == run_python(client, tmp_path / "m.onnx")


@pytest.mark.parametrize("kind", ["inline", "one file", "many files"])
def test_saved_bytes(here: Path, tmp_path: Path, kind: str) -> None:
    """onnx.save writes the same bytes to a mount as to a plain folder.

    Files of one tensor each have random names, so it is their contents that are compared.
    """
    for folder in (here, tmp_path):
        run_python(SAVE, folder / "m.onnx", kind, "2")
    data, expected = (
        sorted(path.read_bytes() for path in folder.iterdir() if path.name != "m.onnx")
        for folder in (here, tmp_path)
    )
    assert data == expected
    assert (here / "m.onnx").stat().st_size == (tmp_path / "m.onnx").stat().st_size


@pytest.mark.parametrize("name", ["base.onnx", "base-external.onnx"])
def test_real_weights(here: Path, shared_mount: Mount, name: str) -> None:
    """An export of a real model computes the same from a mount, warm and cold."""
    for source in MODELS.glob(f"{name}*"):
        shutil.copy(source, here)
    expected = run_python(RUN, MODELS / name)
    assert run_python(RUN, here / name) == expected
    shared_mount.sync()
    drop_kernel_caches()
    assert run_python(RUN, here / name) == expected


def test_overwritten_external_data(here: Path, tmp_path: Path, shared_mount: Mount) -> None:
    """A model whose data file is replaced in place computes with the new weights."""
    for folder in (here, tmp_path):
        (folder / "new").mkdir()
        run_python(SAVE, folder / "m.onnx", "one file", "3")
        run_python(SAVE, folder / "new" / "m.onnx", "one file", "4")
    shared_mount.sync()
    before = run_python(RUN, here / "m.onnx")
    for folder in (here, tmp_path):
        with (folder / "weights.bin").open("r+b") as data:
            data.write((folder / "new" / "weights.bin").read_bytes())
    after = run_python(RUN, here / "m.onnx")
    assert after != before
    assert after == run_python(RUN, tmp_path / "m.onnx")


def test_optimized_model(here: Path) -> None:
    """A model that onnxruntime optimized and saved to a mount computes the same."""
    run_python(SAVE, here / "m.onnx", "inline", "5")
    run_python(
        """
        import sys
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = sys.argv[2]
        onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
        """,
        here / "m.onnx",
        here / "optimized.onnx",
    )
    assert run_python(RUN, here / "optimized.onnx") == run_python(RUN, here / "m.onnx")
