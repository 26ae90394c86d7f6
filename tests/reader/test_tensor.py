"""Tensors of files: as arrays, in parts, and of every format and dtype."""

import os
import pickle
import time
import tracemalloc
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from safetensors.numpy import load_file

import modelfs
from modelfs.errors import CorruptChunk, NotFound
from modelfs.formats.dtypes import BITS, ONNX_DTYPES, SAFETENSORS_BITS
from modelfs.formats.layout import Layout, ReadAt
from modelfs.formats.sniff import recognise
from modelfs.reader import dtypes, layout
from modelfs.store.files import parallel
from modelfs.store.files.content import Contents
from modelfs.store.files.read_runs import ReadRun
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.external_models import model_naming
from tests.support.filled_reader import Make
from tests.support.paths import MODELS
from tests.support.run_jobs import ingest_all, optimize
from tests.support.stores import (
    CHUNK,
    model_of,
    new_file,
    noise,
    overwrite,
    stored_file,
    tensors_of,
)
from tests.support.torch_archives import saved
from tests.support.writer_process import writer_of

GRID = np.arange(7 * 5 * 3, dtype="<i4").reshape(7, 5, 3)
SETBACK: Final = "import time; real = time.time_ns; time.time_ns = lambda: real() - 3600 * 10**9"
# Whole elements of these are no dtype of numpy's, nor of ml_dtypes'.
PACKED = {dtype for dtype, bits in BITS.items() if bits < 8}


def model_of_arrays(**arrays: np.ndarray[Any, Any]) -> bytes:
    names = {"<i4": "I32", "<f4": "F32", "<f8": "F64"}
    return tensors_of(
        {
            name: (names[array.dtype.newbyteorder("<").str], array.shape, array.tobytes())
            for name, array in arrays.items()
        }
    )


@pytest.fixture
def grid(make: Make) -> modelfs.Tensor:
    content = model_of_arrays(first=np.zeros(2000), grid=GRID, last=np.ones(3))
    return make(lambda store: stored_file(store, b"model", content))["model"].tensors["grid"]


def test_a_tensor(grid: modelfs.Tensor) -> None:
    """A tensor has a name, dtype, shape and size, and each read of it is a new copy."""
    assert (grid.name, grid.dtype, grid.shape, grid.nbytes) == ("grid", "I32", (7, 5, 3), 420)
    assert (grid.ndim, len(grid), np.size(grid)) == (3, 7, 105)
    assert repr(grid) == "<grid: I32 [7, 5, 3]>"
    array = grid.numpy()
    assert array.dtype == np.int32
    assert np.array_equal(array, GRID)
    array[:] = 0
    assert grid.bytes() == GRID.tobytes()
    assert array.flags.writeable


def test_numpy_takes_a_tensor_for_an_array(grid: modelfs.Tensor) -> None:
    """Functions of numpy take a tensor for an array, and never without a copy."""
    assert np.array_equal(np.asarray(grid), GRID)
    assert np.asarray(grid, np.float64).dtype == np.float64
    assert np.array(grid, copy=True).sum() == GRID.sum()
    assert np.add(grid, 1).max() == GRID.max() + 1
    with pytest.raises(ValueError, match="without a copy"):
        np.array(grid, copy=False)


def indices(size: int) -> st.SearchStrategy[object]:
    edge = st.none() | st.integers(-size - 3, size + 3)
    steps = st.none() | st.integers(-3, 3).filter(bool)
    return st.integers(-size, size - 1) | st.builds(slice, edge, edge, steps)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    index=st.one_of(
        indices(7),
        st.tuples(indices(7)),
        st.tuples(indices(7), indices(5)),
        st.tuples(indices(7), indices(5), indices(3)),
        st.sampled_from(
            [(), ..., None, (..., 0), (2, ...), (slice(1, 3), ..., 1), (slice(2), None), True]
        ),
        st.sampled_from([[1, 3], np.array([0, 6]), (slice(2, 5), [0, 2]), np.int64(3), np.True_]),
        st.just(GRID % 2 == 0),
    )
)
def test_indices_are_those_of_numpy(grid: modelfs.Tensor, index: Any) -> None:
    """Whatever selects elements of an array selects the same of a tensor."""
    found, expected = grid[index], GRID[index]
    assert np.array_equal(found, expected)
    assert np.shape(found) == np.shape(expected)


@pytest.mark.parametrize("index", [7, -8, (0, 5), (0, 0, 0, 0), "x", 1.5, (1 << 70)])
def test_indices_that_are_none(grid: modelfs.Tensor, index: Any) -> None:
    """An index that numpy refuses is the same error of a tensor."""
    with pytest.raises(IndexError):
        GRID[index]
    with pytest.raises(IndexError):
        grid[index]


def test_rows_come_one_by_one(grid: modelfs.Tensor) -> None:
    """Iterating over a tensor yields its rows, and ends."""
    assert np.array_equal(np.stack([*grid]), GRID)
    assert np.array_equal(next(iter(grid)), GRID[0])


def test_a_row_takes_no_more_memory_than_a_row(make: Make) -> None:
    """Of a large tensor, a few rows are read for themselves."""
    rows = np.arange(1 << 20, dtype="<f8").reshape(1024, 1024)
    content = model_of_arrays(weight=rows)
    reader = make(lambda store: stored_file(store, b"model", content))
    tensor = reader["model"].tensors["weight"]
    assert tensor[0, 0] == 0
    tracemalloc.start()
    assert np.array_equal(tensor[500:502], rows[500:502])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400_000


def test_scalars_and_empty_tensors(make: Make) -> None:
    """A tensor without dimensions has one element, and one with a dimension of 0 none."""
    content = tensors_of(
        {
            "scalar": ("F32", (), np.float32(1.5).tobytes()),
            "none": ("F32", (0,), b""),
            "rows of none": ("I64", (3, 0), b""),
            "no rows": ("I64", (0, 3), b""),
        }
    )
    tensors = make(lambda store: stored_file(store, b"model", content))["model"].tensors
    assert tensors["scalar"].numpy() == 1.5
    assert tensors["scalar"][()] == tensors["scalar"][...] == 1.5
    with pytest.raises(IndexError):
        tensors["scalar"][0]
    for call in (len, iter, list):
        with pytest.raises(TypeError, match="is a scalar"):
            call(tensors["scalar"])
    assert tensors["scalar"].ndim == 0
    assert len(tensors["no rows"]) == len(list(tensors["no rows"])) == 0
    assert all(tensors.values())
    for name, shape in (("none", (0,)), ("rows of none", (3, 0)), ("no rows", (0, 3))):
        tensor = tensors[name]
        assert tensor.numpy().shape == tensor[:].shape == tensor[...].shape == shape
        assert tensor.bytes() == b""
        tensor.read_into(bytearray())
    assert tensors["rows of none"][2].shape == (0,)
    with pytest.raises(IndexError):
        tensors["no rows"][0]


def model_of_type(dtype: str, shape: tuple[int, ...], data: bytes) -> bytes:
    """Return a model with the tensor `x`, in a format that has its dtype."""
    if dtype in SAFETENSORS_BITS:
        return tensors_of({"x": (dtype, shape, data)})
    (number,) = (number for number, name in ONNX_DTYPES.items() if name == dtype)
    weight = onnx.TensorProto(name="x", dims=shape, data_type=number, raw_data=data)
    graph = onnx.helper.make_graph([], "graph", [], [], initializer=[weight])
    return bytes(onnx.helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("dtype", sorted(BITS.keys() - PACKED))
def test_dtypes(make: Make, dtype: str) -> None:
    """Whole elements are those of numpy, or of ml_dtypes."""
    data = bytes(range(1, 1 + BITS[dtype] // 8 * 6))
    content = model_of_type(dtype, (2, 3), data)
    tensor = make(lambda store: stored_file(store, b"model", content))["model"].tensors["x"]
    array = tensor.numpy()
    assert (array.shape, array.itemsize, array.tobytes()) == ((2, 3), BITS[dtype] // 8, data)
    assert tensor[1].tobytes() == data[len(data) // 2 :]
    buffer = np.empty_like(array)
    tensor.read_into(buffer)
    assert buffer.tobytes() == data


@pytest.mark.parametrize("dtype", sorted(PACKED))
def test_packed_dtypes(make: Make, dtype: str) -> None:
    """A tensor with several elements in a byte has bytes, and no array."""
    data = bytes(range(BITS[dtype]))
    content = model_of_type(dtype, (2, 4), data)
    tensor = make(lambda store: stored_file(store, b"model", content))["model"].tensors["x"]
    assert tensor.bytes() == data
    for call in (tensor.numpy, lambda: tensor[0], lambda: np.asarray(tensor)):
        with pytest.raises(TypeError, match=f"no {dtype}: several elements"):
            call()


def test_without_ml_dtypes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor of BF16 has bytes only, and the error of its array names the package."""
    monkeypatch.setattr(dtypes, "ml_dtypes", None)
    content = tensors_of({"x": ("BF16", (2,), b"abcd"), "y": ("F16", (2,), b"abcd")})
    tensors = make(lambda store: stored_file(store, b"model", content))["model"].tensors
    assert tensors["x"].bytes() == tensors["y"].numpy().tobytes() == b"abcd"
    with pytest.raises(TypeError, match="no BF16 without the package ml_dtypes"):
        tensors["x"].numpy()


def test_read_into(grid: modelfs.Tensor) -> None:
    """The buffer has the tensor's size, and elements of its dtype or raw bits."""
    buffers: list[Any] = [
        *(
            bytearray(420),
            memoryview(bytearray(420)).cast("i"),
            memoryview(bytearray(420)).cast("I"),
        ),
        *(np.empty((7, 5, 3), "<i4"), np.empty(420, "u1"), np.empty(105, "V4")),
    ]
    for buffer in buffers:
        grid.read_into(buffer)
        assert bytes(memoryview(buffer).cast("B")) == GRID.tobytes()
    for wrong in (bytearray(419), bytearray(421), np.empty((7, 5, 3), "<i8"), bytearray()):
        with pytest.raises(ValueError, match="grid has 420 bytes"):
            grid.read_into(wrong)
    with pytest.raises(TypeError):
        grid.read_into(bytes(420))


@pytest.mark.parametrize(
    "buffer",
    [
        *(np.zeros((7, 5, 3), dtype) for dtype in ("<f4", ">i4", "S4", ml_dtypes.int4)),
        *(np.zeros(210, dtype) for dtype in ("<i2", "<f2", ml_dtypes.bfloat16)),
        memoryview(bytearray(420)).cast("f"),
    ],
    ids=lambda buffer: getattr(buffer, "dtype", None),
)
def test_read_into_another_dtype(grid: modelfs.Tensor, buffer: Any) -> None:
    """A buffer whose elements would be other numbers is refused, and stays as it is."""
    buffer = buffer if buffer.itemsize > 1 else np.zeros(420, buffer.dtype)
    with pytest.raises(TypeError, match="grid is of I32, the buffer of "):
        grid.read_into(buffer)
    assert not any(bytes(buffer.tobytes()))


def test_read_raw_bits_of_bf16(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ml_dtypes, an array of unsigned integers has room for them."""
    monkeypatch.setattr(dtypes, "ml_dtypes", None)
    content = tensors_of({"x": ("BF16", (2,), b"abcd")})
    tensor = make(lambda store: stored_file(store, b"model", content))["model"].tensors["x"]
    bits = np.empty(2, "<u2")
    tensor.read_into(bits)
    assert bits.tobytes() == b"abcd"
    with pytest.raises(TypeError, match="x is of BF16, the buffer of float16"):
        tensor.read_into(np.empty(2, "<f2"))


# -- formats


def fill_models(store: Store) -> None:
    for path in MODELS.iterdir():
        new_file(store, path.name.encode(), path.read_bytes())
    ingest_all(store)
    optimize(store)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the test models, optimized and closed."""
    path = tmp_path_factory.mktemp("models") / "store"
    modelfs.create(path, chunk_size=1 << 16)
    with Store(path) as store:
        fill_models(store)
    return path


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_safetensors(models: Path, path: Path) -> None:
    """The library reads the same names, shapes, dtypes and numbers."""
    expected = load_file(path)
    with modelfs.open(models) as store:
        file = store[path.name]
        assert file.format == "safetensors"
        assert file.tensors.keys() == expected.keys()
        for name, tensor in file.tensors.items():
            assert tensor.shape == expected[name].shape
            assert tensor.bytes() == expected[name].tobytes()
            assert tensor.numpy().dtype == expected[name].dtype


def test_onnx(models: Path) -> None:
    """Initializers are those of the onnx package, in the model and in its data file."""
    graph = onnx.load(MODELS / "base.onnx").graph
    expected = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    with modelfs.open(models) as store:
        file, data = store["base.onnx"], store["base-external.onnx.data"]
        assert (file.format, data.format) == ("onnx", "onnx_data")
        assert {other.format for other in store.files()} == {
            "plain",
            "safetensors",
            "onnx",
            "onnx_data",
            "torch",
        }
        assert all(other.format == other.report().format for other in store.files())
        for tensors in (file.tensors, data.tensors):
            assert tensors
            for name, tensor in tensors.items():
                assert np.array_equal(tensor.numpy(), expected[name])


def test_torch(make: Make) -> None:
    """Storages have the names and shapes of their tensors."""
    arrays = {"a": np.arange(12.0).reshape(3, 4), "b": np.ones(5)}
    content = saved({name: ("F64", a.shape, a.tobytes()) for name, a in arrays.items()})
    file = make(lambda store: stored_file(store, b"model.pt", content))["model.pt"]
    assert file.format == "torch"
    for name, array in arrays.items():
        assert np.array_equal(file.tensors[name].numpy(), array)


def test_derivations(models: Path) -> None:
    """Tensors of a fine-tune have the derivations that inspect reports."""
    with modelfs.open(models) as store:
        file = store["finetune.safetensors"]
        report = file.report()
        for tensor in report.tensors:
            assert file.tensors[tensor.name].report() == tensor
        assert any(tensor.derivation for tensor in file.tensors.values())


def test_paths_of_a_report(models: Path) -> None:
    """Each path in a report is that of a file, as the reader has it."""
    with modelfs.open(models) as store:
        files = {file.path: file for file in store.files()}
        for path, file in files.items():
            report = file.report()
            assert report.path == path
            sharers = [*report.shared_with]
            bases: list[modelfs.Base] = []
            for tensor in report.tensors:
                sharers.extend(tensor.shared_with)
                bases.extend(tensor.derived_from)
            assert {sharer.path for sharer in sharers} <= files.keys()
            assert {base.path for base in bases} <= files.keys()
        assert sharers


# -- staged, overwritten, damaged


def test_tensors_of_files_that_are_not_in_chunks(make: Make) -> None:
    """A file that was just written has its tensors, before ingest has seen it."""

    def fill(store: Store) -> None:
        new_file(store, b"model", model_of_arrays(grid=GRID))
        new_file(store, b"archive", saved({"w": ("F32", (2,), bytes(8))}))
        new_file(store, b"text", b"no model, but some text")

    reader = make(fill)
    assert [file.format for file in reader.files()] == ["torch", "safetensors", "plain"]
    assert np.array_equal(reader["model"].tensors["grid"].numpy(), GRID)
    assert list(reader["archive"].tensors) == ["w"]
    assert dict(reader["text"].tensors) == {}


def test_a_file_that_is_overwritten(make: Make, path: Path) -> None:
    """Tensors that lie elsewhere now are not read from where they were."""
    reader = make(lambda store: stored_file(store, b"model", model_of(noise(9000), noise(70))))
    file = reader["model"]
    first, second = file.tensors["t0"], file.tensors["t1"]
    with writer_of(path) as writer:
        writer("store.namespace.link(2, 1, b'link'); store.commit()")
        assert file.tensors["t0"] is not None
        assert (first.bytes(), second.bytes()) == (noise(9000), noise(70))  # only its ctime moved
        writer(
            "store.writes.truncate(2, 0); "
            "store.writes.write(2, 0, model_of(noise(9000, 1), noise(60, 2))[:5000]); "
            "store.flush(2); store.commit()"
        )
        for tensor in (first, second):
            with pytest.raises(NotFound, match=f"does not have the tensor {tensor.name} any more"):
                tensor.bytes()
        assert dict(file.tensors) == {}
        writer("store.writes.write(2, 0, model_of(noise(9000, 1), noise(60, 2)))")
        writer("store.flush(2); store.commit()")
        assert (file.format, [*file.tensors]) == ("safetensors", ["t0", "t1"])
        assert first.bytes() == noise(9000, 1)  # the same place again
        for call in (second.bytes, second.numpy, lambda: second.read_into(bytearray(70))):
            with pytest.raises(NotFound, match="t1 any more"):
                call()
        assert file.tensors["t1"].bytes() == noise(60, 2)
        writer("ingest_all(store)")
        assert file.tensors["t1"].bytes() == noise(60, 2)
        writer("drain(store.orphans.remove(store.namespace.unlink(1, b'link')))")
        writer("drain(store.orphans.remove(store.namespace.unlink(1, b'model'))); store.commit()")
        with pytest.raises(NotFound, match="model was removed"):
            first.bytes()


@pytest.mark.parametrize("is_ingested", [False, True])
def test_the_clock_is_set_back(make: Make, path: Path, *, is_ingested: bool) -> None:
    """A model that is overwritten in place while the clock is behind is seen as any other."""
    one, two = np.full(1000, 1, "<f4"), np.full(1000, 2, "<f4")
    reader = make(lambda store: stored_file(store, b"m", model_of_arrays(a=one, b=two)))
    file = reader["m"]
    tensors = file.tensors
    assert np.array_equal(tensors["a"], one)
    with writer_of(path) as writer:
        writer(SETBACK)
        writer(f"store.writes.write({ROOT + 1}, 0, {model_of_arrays(b=two, a=one)!r})")
        writer(f"durable(store, {ROOT + 1})")
        if is_ingested:
            writer("ingest_all(store)")
        with pytest.raises(NotFound, match="tensor a any more"):
            tensors["a"].numpy()
        assert np.array_equal(file.tensors["a"], one)
        assert np.array_equal(file.tensors["b"], two)


def test_tensors_stay_while_other_files_change(make: Make, path: Path) -> None:
    """A commit that leaves a file as it is leaves its tensors."""
    reader = make(lambda store: stored_file(store, b"m", model_of_arrays(a=GRID)))
    file = reader["m"]
    tensors = file.tensors
    with writer_of(path) as writer:
        writer("stored_file(store, b'other', noise(CHUNK))")
        assert file.tensors is tensors


@pytest.mark.parametrize("age", [0.0, 3600.0])
def test_a_staged_file_is_overwritten_without_a_flush(make: Make, path: Path, age: float) -> None:
    """A tensor whose header was overwritten is not read from where it was.

    The file was written just now, or an hour ago.
    """
    reader = make(lambda store: new_file(store, b"model", model_of(noise(5000, 1), noise(5000, 2))))
    (staging,) = (path / "staging").iterdir()
    os.utime(staging, (time.time() - age,) * 2)
    tensor = reader["model"].tensors["t1"]
    assert tensor.bytes() == noise(5000, 2)
    with writer_of(path) as writer:
        writer("store.writes.write(2, 0, model_of(noise(9000, 3), noise(1000, 4)))")
        for call in (tensor.bytes, tensor.numpy, lambda: tensor.read_into(bytearray(5000))):
            with pytest.raises(NotFound, match="t1 any more"):
                call()
        assert reader["model"].tensors["t1"].bytes() == noise(1000, 4)
        writer("store.flush(2); store.commit(); ingest_all(store)")
        assert reader["model"].tensors["t1"].bytes() == noise(1000, 4)


def test_a_staged_file_is_overwritten_during_a_read(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header that changes between the plan of a read and its end is found out."""
    reader = make(lambda store: new_file(store, b"model", model_of(noise(5000, 1), noise(5000, 2))))
    (staging,) = (path / "staging").iterdir()
    os.utime(staging, (1, 1))
    tensor = reader["model"].tensors["t1"]
    gather = parallel.gather

    def overwritten(contents: Contents, runs: list[ReadRun]) -> bytes:
        overwrite(staging, 0, model_of(noise(9000, 3), noise(1000, 4)))
        return gather(contents, runs)

    good = staging.read_bytes()
    monkeypatch.setattr(parallel, "gather", overwritten)
    with pytest.raises(NotFound, match="t1 any more"):
        tensor.bytes()
    monkeypatch.undo()
    staging.write_bytes(good)
    assert tensor.bytes() == noise(5000, 2)


def test_a_staged_file_is_scanned_once(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not written has its tensors listed and read with one scan of its header."""
    reader = make(lambda store: new_file(store, b"model", model_of(noise(5000, 1), noise(5000, 2))))
    (staging,) = (path / "staging").iterdir()
    os.utime(staging, (1, 1))
    scans: list[int] = []

    def counted(read_at: ReadAt, size: int) -> Layout:
        scans.append(size)
        return recognise(read_at, size)

    monkeypatch.setattr(layout, "recognise", counted)
    tensors = reader["model"].tensors
    for _ in range(3):
        assert [tensor.bytes() for tensor in tensors.values()] == [noise(5000, 1), noise(5000, 2)]
    assert len(scans) == 1


def test_a_data_file_of_onnx_is_cut_again(make: Make, path: Path, tmp_path: Path) -> None:
    """A data file whose model changes has the new tensors, though it does not change itself."""

    def fill(store: Store) -> None:
        new_file(store, b"weights.data", noise(9000))
        new_file(store, b"model.onnx", model_naming("weights.data"))
        ingest_all(store)

    data = make(fill)["weights.data"]
    first = data.tensors["w0"]
    assert first.bytes() == noise(9000)[100:5100]
    cuts = [(0, 4000), (4000, 2000), (6000, 500)]
    (tmp_path / "model").write_bytes(model_naming("weights.data", cuts))
    with writer_of(path) as writer:
        writer(
            f"content = Path({str(tmp_path / 'model')!r}).read_bytes(); "
            "inode = store.namespace.lookup(1, b'model.onnx'); store.writes.truncate(inode, 0); "
            "store.writes.write(inode, 0, content); store.flush(inode); ingest_all(store)"
        )
        places = {name: tensor.offset for name, tensor in data.tensors.items()}
        assert places == {"w0": 0, "w1": 4000, "w2": 6000}
        with pytest.raises(NotFound, match="w0 any more"):
            first.bytes()
        assert data.tensors["w0"].bytes() == noise(9000)[:4000]


def test_the_index_may_be_behind_the_content(make: Make, path: Path) -> None:
    """Between the last of a file's bytes and its tensors' rows, readers do not take the old rows.

    Ingest is stopped after each of its steps, with a commit.
    """
    make(lambda store: stored_file(store, b"model", model_of(noise(5000), noise(70)))).close()
    new = model_of(noise(3000, 3), noise(4000, 4), noise(100, 5))
    with writer_of(path) as writer:
        writer(
            "store.writes.truncate(2, 0); "
            "store.writes.write(2, 0, model_of(noise(3000, 3), noise(4000, 4), noise(100, 5))); "
            "store.flush(2); store.commit(); "
            "from modelfs.jobs.ingest.job import Ingest; from modelfs.jobs.steps import Work; "
            "job = Ingest(store).ingest([2]); step = next(job)"
        )
        with modelfs.open(path) as reader:
            for _ in range(8):
                file = reader["model"]
                assert {name: tensor.nbytes for name, tensor in file.tensors.items()} == {
                    "t0": 3000,
                    "t1": 4000,
                    "t2": 100,
                }
                assert file.tensors["t1"].bytes() == noise(4000, 4)
                assert file.pread() == new
                writer(
                    "result = step.call() if isinstance(step, Work) else None\n"
                    "try: step = job.send(result)\nexcept StopIteration: pass\n"
                    "store.commit()"
                )


def test_damage_hurts_one_tensor(make: Make, path: Path) -> None:
    """A damaged tensor is an error, and others of its file are read."""
    content = model_of(noise(3 * CHUNK, 1), noise(3 * CHUNK, 2))
    reader = make(lambda store: stored_file(store, b"model", content))
    (pack,) = (path / "packs").iterdir()
    good = pack.read_bytes()
    overwrite(pack, good.index(noise(3 * CHUNK, 1)[:100]), b"damage")
    tensors = reader["model"].tensors
    for call in (tensors["t0"].bytes, tensors["t0"].numpy, lambda: tensors["t0"][:5]):
        with pytest.raises(CorruptChunk):
            call()
    assert tensors["t0"][CHUNK:].tobytes() == noise(3 * CHUNK, 1)[CHUNK:]
    assert tensors["t1"].bytes() == noise(3 * CHUNK, 2)
    pack.write_bytes(good)


def test_pickles(grid: modelfs.Tensor) -> None:
    """A tensor is pickled without the others of its file, and read elsewhere."""
    made = pickle.dumps(grid)
    assert len(made) < 1500
    loaded: modelfs.Tensor = pickle.loads(made)
    assert np.array_equal(loaded.numpy(), GRID)


def test_tensors_are_equal_by_their_file(grid: modelfs.Tensor) -> None:
    """A tensor equals itself, also after a pickle, and no other object."""
    again = pickle.loads(pickle.dumps(grid))
    assert again == grid
    assert len({again, grid}) == 1
    assert grid != grid.name
