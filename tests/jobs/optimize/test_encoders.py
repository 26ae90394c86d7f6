"""Related models cost little, by the encoder that fits their relation."""

import numpy as np
import pytest
from onnxruntime.quantization import quantize_dynamic  # type: ignore[import-untyped]

from modelfs.codecs import quantise
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.store.index.tables import ROOT
from tests.support.optimized_models import Array, f32, forms, put, real, records, remove
from tests.support.paths import MODELS
from tests.support.related_tensors import weights
from tests.support.run_jobs import collect, optimize
from tests.support.stores import Box, content_of, noise, tensors_of


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("base-bf16.safetensors", 0.01),
        ("base-f16.safetensors", 0.01),
        ("base.onnx", 0.01),
        ("finetune.safetensors", 0.45),
        ("lora-merged.safetensors", 0.40),
        ("vocab-extended.safetensors", 0.02),
    ],
)
def test_a_relative_of_a_stored_model_costs_little(wide: Box, name: str, share: float) -> None:
    """A model made from a stored one adds few stored bytes."""
    put(wide.store, "base", real("base.safetensors"))
    assert put(wide.store, name, real(name)) <= share * len(real(name))


def test_a_bf16_finetune_costs_a_tenth(wide: Box) -> None:
    """A rounded fine-tune without its original is a small delta to the rounded base."""
    put(wide.store, "base", real("base-bf16.safetensors"))
    data = real("finetune-bf16.safetensors")
    assert put(wide.store, "finetune", data) <= 0.12 * len(data)


def test_a_narrower_copy_is_derived_from_a_later_original(wide: Box) -> None:
    """A rounded copy that was stored first is derived from the original that comes later."""
    put(wide.store, "bf16", real("base-bf16.safetensors"))
    put(wide.store, "f32", real("base.safetensors"))
    forms = wide.store.inventory.statistics(0).forms
    assert forms["cast"].raw_bytes > 0.98 * len(real("base-bf16.safetensors"))


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the real model as quantised by onnxruntime: an embedding U8, and a matrix I8."""
    path = tmp_path_factory.mktemp("int8") / "int8.onnx"
    quantize_dynamic(MODELS / "base.onnx", path)
    return path.read_bytes()


def test_a_quantised_model_costs_little(wide: Box, int8: bytes) -> None:
    """The integers are derived from the floats, which were stored before."""
    put(wide.store, "base", real("base.onnx"))
    assert put(wide.store, "int8", int8) < 0.02 * len(int8)


def test_a_quantised_model_is_derived_from_a_later_original(wide: Box, int8: bytes) -> None:
    """The integers are derived from the floats, which were stored later, and read as before."""
    put(wide.store, "int8", int8)
    put(wide.store, "base", real("base.onnx"))
    both = wide.store.inventory.statistics(0).stored_bytes
    inode = wide.store.namespace.lookup(ROOT, b"int8")
    assert content_of(wide.store, inode) == int8
    remove(wide.store, b"int8")
    collect(wide.store)
    assert both - wide.store.inventory.statistics(0).stored_bytes < 0.02 * len(int8)


def test_all_parameters_of_quantisation_are_tried(wide: Box) -> None:
    """A quantised copy is derived by whichever of the usual scales made it, in every chunk."""
    values, how = quantised_otherwise()
    put(wide.store, "floats", tensors_of({"w": f32(values)}))
    numbers = quantise.quantised(values.reshape(-1), how)
    assert put(wide.store, "int8", tensors_of({"w": ("U8", values.shape, numbers)})) < 1000
    made = wide.store.inventory.statistics(0).forms["quantise"]
    assert made.raw_bytes == len(numbers)


def quantised_otherwise() -> tuple[Array, quantise.Parameters]:
    """Return a tensor, and the second parameters that are tried for it."""
    for seed in range(20):
        values = weights(500, 700, seed=seed)
        extremes = quantise.Extremes()
        extremes.feed(values.tobytes())
        first, second, *_ = quantise.candidates(extremes, "U8")
        made = [quantise.quantised(values.reshape(-1), each) for each in (first, second)]
        if first.scale != second.scale == pytest.approx(first.scale) and made[0] != made[1]:
            return values, second
    raise AssertionError("all scales are the same")


def test_a_fused_tensor_is_put_together_from_its_parts(wide: Box) -> None:
    """A tensor that concatenates stored query, key and value tensors is gathered from them."""
    parts = {name: weights(200, 130, seed=seed) for seed, name in enumerate("qkv")}
    put(wide.store, "parts", tensors_of({name: f32(part) for name, part in parts.items()}))
    fused = np.concatenate(list(parts.values()))
    assert put(wide.store, "fused", tensors_of({"qkv": f32(fused)})) < 0.01 * fused.nbytes


def test_parts_are_cut_out_of_a_fused_tensor(wide: Box) -> None:
    """A tensor that is a range of rows of a stored one is gathered from it."""
    fused = weights(600, 130, seed=7)
    put(wide.store, "fused", tensors_of({"qkv": f32(fused)}))
    parts = {name: f32(fused[at : at + 200]) for name, at in (("q", 0), ("k", 200), ("v", 400))}
    assert put(wide.store, "parts", tensors_of(parts)) < 0.01 * fused.nbytes


def test_zeros_are_stored_for_nothing(wide: Box) -> None:
    """A tensor of one value takes next to no space."""
    zeros = np.zeros((500, 300), np.float32)
    assert put(wide.store, "zeros", tensors_of({"zeros": f32(zeros)})) < 1000


def test_second_moments_are_factored(wide: Box) -> None:
    """A matrix of Adam's second moments is factored by rows and columns, at any chunk offset."""
    random = np.random.default_rng(1)
    scales = random.normal(0, 3, (999, 1)) + random.normal(0, 3, 100) - 9
    squares = (2 ** (scales + random.normal(0, 0.3, (999, 100)))).astype(np.float32)
    put(wide.store, "state", tensors_of({"v": f32(squares)}))
    assert set(forms(wide.store)) == {"factored", "plain"}


def test_noise_stays_plain(wide: Box) -> None:
    """A chunk without a smaller form stays plain, and is marked as optimized."""
    put(wide.store, "noise", tensors_of({"noise": ("U8", (200_000,), noise(200_000))}))
    plain = [record for record in records(wide.store) if record.form == "plain"]
    assert sum(record.size for record in plain if record.optimized) == 200_000


def checkpoints(count: int) -> Array:
    """Return the weights of a model, and those after each of `count` small steps."""
    steps = (weights(300, 200, seed=n) / 500 for n in range(1, 1 + count))
    return np.cumsum([weights(300, 200), *steps], 0)


def test_checkpoints_are_all_deltas_to_the_first(wide: Box) -> None:
    """With a depth of 1, no delta is the base of another."""
    steps = checkpoints(3)
    for number, step in enumerate(steps):
        put(wide.store, f"checkpoint-{number}", tensors_of({"w": f32(step.astype(np.float32))}))
    deltas = [record for record in records(wide.store) if record.form == "delta"]
    assert len(deltas) == 3 * 4
    assert not any(record.dependants for record in deltas)


def test_depth_lets_deltas_follow_one_another(wide: Box) -> None:
    """With a depth of 2, a delta may be to a delta."""
    Backlog(wide.store).begin(depth=2)
    steps = checkpoints(3)
    for number, step in enumerate(steps):
        put(wide.store, f"checkpoint-{number}", tensors_of({"w": f32(step.astype(np.float32))}))
    assert Backlog(wide.reopen()).depth == 2
    assert any(record.dependants for record in records(wide.store) if record.form == "delta")


def test_again_with_more_depth_makes_a_series_smaller(wide: Box) -> None:
    """`include_optimized` encodes optimized chunks again, to nearer bases if depth allows it."""
    steps = checkpoints(6)
    files = {f"step-{n}": tensors_of({"w": f32(each)}) for n, each in enumerate(steps)}
    for name, data in files.items():
        put(wide.store, name, data)
    before = wide.store.inventory.statistics(0).stored_bytes
    optimize(wide.store, depth=4)
    assert wide.store.inventory.statistics(0).stored_bytes == before
    optimize(wide.store, depth=4, include_optimized=True)
    assert wide.store.inventory.statistics(0).stored_bytes < before
    assert not Backlog(wide.store).include_optimized
    for name, data in files.items():
        inode = wide.store.namespace.lookup(ROOT, name.encode())
        assert content_of(wide.store, inode) == data
