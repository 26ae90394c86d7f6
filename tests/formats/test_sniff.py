"""Recognising files by their content."""

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from safetensors.numpy import save

from modelfs.formats.layout import PLAIN, Format, Layout, TensorSpan
from modelfs.formats.sniff import HEAD_SIZE, external_layout, recognise
from tests.support.file_bytes import reader
from tests.support.paths import FORMATS_GOLDEN, MODELS

FILES = sorted(path for path in MODELS.iterdir() if path.suffix != ".md")

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def recognised(content: bytes) -> Layout:
    return recognise(reader(content), len(content))


def recognised_partial(content: bytes) -> Layout | None:
    return recognise(reader(content), len(content), partial=True)


def rows(spans: list[TensorSpan]) -> list[list[object]]:
    return [[s.name, s.dtype, list(s.shape), s.start, s.stop] for s in spans]


@every_file
def test_real_files_have_their_pinned_layout(path: Path) -> None:
    """The layout is pinned. A missing file means: new model, add its golden layout."""
    layout = recognised(path.read_bytes())
    layout_fields = {
        "format": layout.format.name,
        "spans": rows(list(layout.spans)),
        "external": [[e.location, *rows([e.span])[0]] for e in layout.external],
    }
    assert layout_fields == json.loads((FORMATS_GOLDEN / f"{path.name}.json").read_text())


@every_file
def test_a_cut_file_is_plain(path: Path) -> None:
    """A model that lacks its last byte is plain bytes."""
    assert recognised(path.read_bytes()[:-1]) == PLAIN


@every_file
def test_a_file_with_a_tail_is_plain(path: Path) -> None:
    """A model with a byte too many is plain bytes."""
    assert recognised(path.read_bytes() + b"\0") == PLAIN


def test_equal_tensors_of_both_formats_are_equal_bytes() -> None:
    """Tensors that the ONNX export has verbatim have the same bytes in both layouts."""
    model, weights = (MODELS / "base.onnx").read_bytes(), (MODELS / "base.safetensors").read_bytes()
    exported = {s.name: model[s.start : s.stop] for s in recognised(model).spans}
    trained = {s.name: weights[s.start : s.stop] for s in recognised(weights).spans}
    shared = exported.keys() & trained.keys()
    assert len(shared) == 2
    assert all(exported[name] == trained[name] for name in shared)


def test_the_external_file_is_cut_by_its_model() -> None:
    """The spans that a model names in its data file cover that file."""
    model = recognised((MODELS / "base-external.onnx").read_bytes())
    size = (MODELS / "base-external.onnx.data").stat().st_size
    layout = external_layout((e.span for e in model.external), size)
    assert layout.format is Format.ONNX_DATA
    assert sum(span.size for span in layout.spans) == size


WEIGHTS = save({"w": np.arange(6, dtype=np.float32), "b": np.arange(3, dtype=np.int8)})
MODEL = helper.make_model(
    helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "graph",
        [],
        [],
        [helper.make_tensor("w", TensorProto.UINT8, [9], b"raw bytes", raw=True)],
    )
).SerializeToString()

PLAIN_CONTENTS = {
    "nothing": b"",
    "zeros": bytes(1000),
    "text": b"Call me Ishmael. Some years ago, never mind how long precisely.",
    "JSON": b'{"model_type": "bert", "hidden_size": 384}',
    "pickle": pickle.dumps({"w": [1.0] * 100}),
    "zip": b"PK\x03\x04" + bytes(100),
    "GGUF": b"GGUF\x03\0\0\0" + bytes(100),
    "another protobuf": helper.make_tensor("w", TensorProto.FLOAT, [2], [1, 2]).SerializeToString(),
    "a graph alone": helper.make_graph([], "graph", [], []).SerializeToString(),
    "a model's beginning": b"\x08\x08\x12\x05hello",
}


@pytest.mark.parametrize("content", PLAIN_CONTENTS.values(), ids=PLAIN_CONTENTS)
def test_other_files_are_plain(content: bytes) -> None:
    """A file that is no model is plain bytes."""
    assert recognised(content) == PLAIN


@given(junk=st.binary(max_size=200), head=st.sampled_from([b"", b"\x08\x08", WEIGHTS[:9]]))
def test_junk_is_plain(junk: bytes, head: bytes) -> None:
    """No content raises, also if it begins like a model."""
    assert recognised(head + junk) == PLAIN
    assert recognised_partial(head + junk) in {PLAIN, None}


def test_random_bytes_are_practically_never_a_model() -> None:
    """Ten thousand random files that begin like a model are plain bytes."""
    generator = random.Random(0)
    for _ in range(10_000):
        assert recognised(b"\x08\x08" + generator.randbytes(64)) == PLAIN


def test_partial_weights_are_recognised_once_the_header_is_there() -> None:
    """A growing safetensors file is unknown through its header, then has all its spans."""
    header_stop = 8 + int.from_bytes(WEIGHTS[:8], "little")
    for size in range(len(WEIGHTS) + 1):
        expected = recognised(WEIGHTS) if size >= header_stop else None
        assert recognised_partial(WEIGHTS[:size]) == expected


def test_partial_models_are_unknown_to_the_end() -> None:
    """A growing ONNX file is unknown at every size: more fields may follow."""
    for size in range(len(MODEL) + 1):
        assert recognised_partial(MODEL[:size]) is None
    assert recognised(MODEL).format is Format.ONNX


def test_partial_archives_are_unknown_to_the_end() -> None:
    """A growing zip archive is unknown at every size: its directory comes last."""
    content = (MODELS / "base.pt").read_bytes()
    for size in (*range(HEAD_SIZE + 200), len(content) // 2, len(content) - 1, len(content)):
        assert recognised_partial(content[:size]) is None
    assert recognised(content).format is Format.TORCH


@pytest.mark.parametrize("name", ["zeros", "text", "JSON", "pickle", "GGUF"])
def test_partial_files_that_can_be_no_model_are_plain(name: str) -> None:
    """A growing file whose beginning no model has is plain already."""
    assert recognised_partial(PLAIN_CONTENTS[name]) == PLAIN


def test_what_reading_raises_passes_through() -> None:
    """An error of the store is not taken for plain content."""

    def fail(offset: int, size: int) -> bytes:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        recognise(fail, 100)


def span(name: str, start: int, stop: int) -> TensorSpan:
    return TensorSpan(name, "U8", (stop - start,), start, stop)


@pytest.mark.parametrize(
    ("spans", "kept"),
    [
        pytest.param([span("b", 4, 8), span("a", 0, 4)], "ab", id="sorted"),
        pytest.param([span("a", 0, 4), span("b", 2, 6), span("c", 5, 6)], "ac", id="overlap"),
        pytest.param([span("b", 0, 4), span("a", 0, 4)], "a", id="shared"),
        pytest.param([span("a", 0, 10), span("b", 0, 4), span("c", 4, 9)], "bc", id="covering"),
        pytest.param([span("a", 0, 4), span("b", 8, 11)], "a", id="past the end"),
        pytest.param([span("a", 0, 4), span("b", 6, 6)], "a", id="empty"),
        pytest.param([span("a", 0, 4), span("b", -4, -2)], "a", id="negative"),
    ],
)
def test_external_spans_are_made_a_layout(spans: list[TensorSpan], kept: str) -> None:
    """Spans in bounds, given in any order, are kept in file order and without overlap."""
    for order in (spans, spans[::-1]):
        layout = external_layout(order, 10)
        assert layout.format is Format.ONNX_DATA
        assert "".join(kept_span.name for kept_span in layout.spans) == kept


def test_no_external_span_in_bounds_leaves_plain_bytes() -> None:
    """A data file in which no model names a range is plain bytes."""
    assert external_layout([span("a", 0, 11)], 10) == PLAIN
    assert external_layout([], 10) == PLAIN
