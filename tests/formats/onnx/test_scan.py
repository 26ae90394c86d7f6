"""Scanning ONNX models."""

import contextlib
from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from modelfs.formats.budget import MemoryBudget
from modelfs.formats.dtypes import ONNX_DTYPES
from modelfs.formats.layout import (
    ExternalSpan,
    Format,
    Layout,
    MalformedModel,
    TensorSpan,
    TruncatedModel,
)
from modelfs.formats.names import MAX_NAME
from modelfs.formats.onnx.protobuf import MAX_DEPTH
from modelfs.formats.onnx.scan import MAX_ENTRY, MAX_IR_VERSION, MIN_ROW, scan
from modelfs.formats.onnx.schema import SCHEMA
from modelfs.formats.onnx.tensor import MAX_DIMS, MAX_OFFSET
from tests.support.file_bytes import field, message, reader, varint

VARINT, I64, LEN, I32 = 0, 1, 2, 5


OPSET = message(8, field(2, VARINT, varint(17)))


def model_of(graph: bytes, *, ir_version: int = 8) -> bytes:
    """Return a model whose graph has these bytes: for forms that the library never writes."""
    return field(1, VARINT, varint(ir_version)) + message(7, graph) + OPSET


def scanned(content: bytes) -> Layout:
    return scan(reader(content), len(content))


def contents(model: ModelProto | bytes) -> dict[str, bytes]:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return {span.name: content[span.start : span.stop] for span in scanned(content).spans}


def spans_of(graph: bytes) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(span.name, span.dtype, span.shape) for span in scanned(model_of(graph)).spans]


def graph_of(
    nodes: Sequence[NodeProto] = (), initializers: Sequence[TensorProto] = ()
) -> GraphProto:
    return helper.make_graph(nodes, "graph", [], [], initializers)


def model_with(
    nodes: Sequence[NodeProto] = (), initializers: Sequence[TensorProto] = ()
) -> ModelProto:
    return helper.make_model(graph_of(nodes, initializers))


def tensor(name: str, *values: float) -> TensorProto:
    array = np.array(values, np.float32)
    return helper.make_tensor(name, TensorProto.FLOAT, array.shape, array.tobytes(), raw=True)


def raw(*values: float) -> bytes:
    return np.array(values, np.float32).tobytes()


def test_initializers_are_found() -> None:
    """Each initializer has a span of its raw data, with its name, dtype and shape."""
    arrays = {"w": np.arange(6.0).reshape(2, 3), "b": np.arange(4, dtype=np.int8)}
    model = model_with([], [onnx.numpy_helper.from_array(a, n) for n, a in arrays.items()])
    layout = scanned(model.SerializeToString())
    assert layout.format is Format.ONNX
    assert [(s.name, s.dtype, s.shape) for s in layout.spans] == [
        ("w", "F64", (2, 3)),
        ("b", "I8", (4,)),
    ]
    assert contents(model) == {name: array.tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize("data_type", ONNX_DTYPES)
def test_every_data_type_is_found(data_type: int) -> None:
    """Raw data of every data type of fixed width has its dtype and shape."""
    array = np.ones((3, 5), helper.tensor_dtype_to_np_dtype(data_type))
    initializer = onnx.numpy_helper.from_array(array, "w")
    content = model_with([], [initializer]).SerializeToString()
    (span,) = scanned(content).spans
    assert (span.dtype, span.shape) == (ONNX_DTYPES[data_type], (3, 5))
    assert content[span.start : span.stop] == initializer.raw_data


@pytest.mark.parametrize(
    ("data_type", "values", "expected"),
    [
        (TensorProto.FLOAT, [1.0, 2.0], ("F32", (2,))),
        (TensorProto.COMPLEX64, [1 + 2j, 3 + 4j], ("C64", (2,))),
        (TensorProto.DOUBLE, [1.0, 2.0], ("F64", (2,))),
        (TensorProto.COMPLEX128, [1 + 2j, 3 + 4j], ("C128", (2,))),
        (TensorProto.INT32, [1, 300], ("U8", (3,))),
        (TensorProto.FLOAT16, [1.0, 2.0], ("U8", (5,))),
        (TensorProto.INT64, [1, -1], ("U8", (11,))),
        (TensorProto.UINT64, [1, 2], ("U8", (2,))),
    ],
)
def test_typed_fields_are_found(
    data_type: int, values: list[complex], expected: tuple[str, tuple[int, ...]]
) -> None:
    """Packed numbers have a span: of their dtype where their width is fixed, else of bytes."""
    initializer = helper.make_tensor("w", data_type, [2], np.array(values))
    (span,) = scanned(model_with([], [initializer]).SerializeToString()).spans
    assert (span.dtype, span.shape) == expected


def test_strings_are_no_tensor() -> None:
    """A tensor of strings has no span."""
    initializer = onnx.numpy_helper.from_array(np.array(["a" * 500, "b"], object), "w")
    assert contents(model_with([], [initializer])) == {}


def test_empty_tensors_have_no_span() -> None:
    """A tensor of no bytes cuts nothing."""
    assert contents(model_with([], [tensor("none"), tensor("w", 1)])) == {"w": raw(1)}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param([field(1, VARINT, varint(3))], ("U8", (8,)), id="other size"),
        pytest.param([field(1, VARINT, varint(2**64 - 2))], ("U8", (8,)), id="negative"),
        pytest.param([field(1, VARINT, varint(2**62))] * 2, ("U8", (8,)), id="absurd"),
        pytest.param(
            [field(1, VARINT, b"\x01")] * (MAX_DIMS + 1) + [field(1, VARINT, b"\x02")],
            ("U8", (8,)),
            id="many",
        ),
        pytest.param(
            [message(1, b"\x01" * (10 * MAX_DIMS) + b"\x02")], ("U8", (8,)), id="many packed"
        ),
        pytest.param([message(1, b"\x01\x02")], ("F32", (1, 2)), id="packed"),
        pytest.param([field(1, VARINT, b"\x02")], ("F32", (2,)), id="unpacked"),
    ],
)
def test_dims_that_do_not_fit_leave_bytes(
    fields: list[bytes], expected: tuple[str, tuple[int, ...]]
) -> None:
    """Raw data that is not the size of its shape has a span of plain bytes."""
    parts = [*fields, field(2, VARINT, b"\x01"), message(8, b"w"), message(9, bytes(8))]
    assert spans_of(message(5, *parts)) == [("w", *expected)]


def test_cut_packed_dims_are_malformed() -> None:
    """Packed dims that end inside a number are malformed."""
    with pytest.raises(MalformedModel):
        spans_of(message(5, message(1, b"\x80"), message(9, b"x")))


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        pytest.param(message(4, bytes(8)), ("F32", (2,)), id="floats of no dims"),
        pytest.param(message(10, bytes(8)), ("F64", (1,)), id="doubles of no dims"),
        pytest.param(message(4, bytes(7)), ("U8", (7,)), id="no whole floats"),
        pytest.param(message(9, bytes(7)), ("U8", (7,)), id="raw"),
    ],
)
def test_payload_without_data_type_keeps_its_stored_width(
    payload: bytes, expected: tuple[str, tuple[int, ...]]
) -> None:
    """A payload without a data type has the dtype of its field."""
    assert spans_of(message(5, payload)) == [("initializer", *expected)]


def test_unpacked_numbers_have_no_span() -> None:
    """Any number of unpacked numbers is skipped, and the tensors behind them are found."""
    unpacked = (
        field(4, I32, bytes(4)) * 50_000,
        field(5, VARINT, b"\x80\x01") * 50_000,
        field(7, VARINT, b"\x01") * 50_000,
        field(10, I64, bytes(8)) * 50_000,
        field(11, VARINT, b"\x01") * 50_000,
    )
    assert spans_of(message(5, *unpacked) + message(5, message(9, b"x"))) == [
        ("initializer", "U8", (1,))
    ]


def node(op_type: str, name: str = "", **attributes: object) -> NodeProto:
    return helper.make_node(op_type, ["x"], ["y"], name=name, **attributes)  # type: ignore[arg-type]


def test_attributes_hold_tensors() -> None:
    """Tensors of nodes, single and listed, are found under the node's and attribute's name."""
    model = model_with(
        [node("Constant", "c", value=tensor("own", 1), more=[tensor("a", 2), tensor("b", 3)])]
    )
    assert contents(model) == {"c/value": raw(1), "c/more": raw(2), "c/more#2": raw(3)}


def test_nodes_without_a_name_go_by_their_output() -> None:
    """The first output names a node that has no name itself."""
    assert contents(model_with([node("Constant", value=tensor("", 1))])) == {"y/value": raw(1)}


def test_repeated_names_are_numbered() -> None:
    """Names are unique, and the same for the same bytes."""
    names = ["w", "w#2", "w", "w", ""]
    model = model_with([], [tensor(name, 1) for name in names])
    assert list(contents(model)) == ["w", "w#2", "w#3", "w#4", "initializer"]
    assert list(contents(model)) == list(contents(model))


def test_long_names_are_cut() -> None:
    """A name of any length takes bounded memory, and names stay unique."""
    model = model_with([], [tensor("n" * 5000, 1), tensor("n" * 5001, 2)])
    assert list(contents(model)) == ["n" * MAX_NAME, "n" * MAX_NAME + "#2"]


def test_names_that_are_no_text_are_replaced() -> None:
    """A name that is not UTF-8 does not hide its tensor."""
    graph = message(5, message(8, b"\xff"), message(9, b"x"))
    assert spans_of(graph) == [("\N{REPLACEMENT CHARACTER}", "U8", (1,))]


def test_graphs_in_attributes_are_searched() -> None:
    """Tensors of If, of a graph in its branch, and of listed graphs are found."""
    inner = node("If", "inner", then_branch=graph_of([], [tensor("w", 1)]))
    outer = node(
        "If",
        "outer",
        then_branch=graph_of([inner, node("Constant", "c", value=tensor("", 2))]),
        else_branch=graph_of([], [tensor("w", 3)]),
        others=[graph_of([], [tensor("w", 4)])],
    )
    assert contents(model_with([outer])) == {
        "outer/then_branch/inner/then_branch/w": raw(1),
        "outer/then_branch/c/value": raw(2),
        "outer/else_branch/w": raw(3),
        "outer/others/w": raw(4),
    }


def test_functions_are_searched() -> None:
    """Tensors of a function's nodes and of its attributes' defaults are found."""
    constant = node("Constant", "c", value=tensor("", 1))
    default = helper.make_attribute("d", tensor("", 2))
    function = helper.make_function(
        "domain", "f", ["x"], ["y"], [constant], [], attribute_protos=[default]
    )
    model = helper.make_model(graph_of(), functions=[function])
    assert contents(model) == {"functions/f/c/value": raw(1), "functions/f/d": raw(2)}


def test_training_is_searched() -> None:
    """Tensors of both training graphs are found."""
    model = model_with()
    training = model.training_info.add()
    training.initialization.CopyFrom(graph_of([], [tensor("w", 1)]))
    training.algorithm.CopyFrom(graph_of([], [tensor("w", 2)]))
    assert contents(model) == {
        "training_info/initialization/w": raw(1),
        "training_info/algorithm/w": raw(2),
    }


def test_sparse_tensors_are_found() -> None:
    """Values and indices of sparse tensors are found, wherever they are."""
    indices = helper.make_tensor("", TensorProto.INT64, [1], np.array([7]).tobytes(), raw=True)
    sparse = helper.make_sparse_tensor(tensor("s", 1), indices, [9])
    unnamed = helper.make_sparse_tensor(tensor("", 2), indices, [9])
    model = model_with([node("Constant", "c", one=unnamed, many=[unnamed])])
    model.graph.sparse_initializer.extend([sparse, unnamed])
    assert contents(model) == {
        "c/one/values": raw(2),
        "c/one/indices": indices.raw_data,
        "c/many/values": raw(2),
        "c/many/indices": indices.raw_data,
        "s/values": raw(1),
        "s/indices": indices.raw_data,
        "sparse_initializer/values": raw(2),
        "sparse_initializer/indices": indices.raw_data,
    }


def attribute(*fields: bytes) -> bytes:
    return message(1, message(3, b"n"), message(5, message(1, b"a"), *fields))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param([message(7, bytes(MIN_ROW))], [("n/a", "F32", (32,))], id="floats"),
        pytest.param([message(7, bytes(MIN_ROW + 1))], [("n/a", "U8", (129,))], id="no floats"),
        pytest.param([message(8, bytes(MIN_ROW))], [("n/a", "U8", (128,))], id="ints"),
        pytest.param([message(7, bytes(MIN_ROW - 4))], [], id="few floats"),
        pytest.param([message(8, bytes(MIN_ROW - 1))], [], id="few ints"),
        pytest.param([field(7, I32, bytes(4)) * 99], [], id="unpacked floats"),
        pytest.param([field(8, VARINT, b"\x01") * 999], [], id="unpacked ints"),
    ],
)
def test_packed_rows_of_attributes_are_found(
    fields: list[bytes], expected: list[tuple[str, str, tuple[int, ...]]]
) -> None:
    """Long packed floats and ints of an attribute, as of tree ensembles, have a span."""
    assert spans_of(attribute(*fields)) == expected


def external(
    entries: Iterable[tuple[str | bytes, str | bytes]],
    *,
    dims: Sequence[int] = (2,),
    data_type: int = TensorProto.FLOAT,
    location: int = 1,
) -> bytes:
    pairs = [
        message(13, *(message(n, v if isinstance(v, bytes) else v.encode()) for n, v in pair))
        for pair in (((1, key), (2, value)) for key, value in entries)
    ]
    shape = b"".join(field(1, VARINT, varint(dim)) for dim in dims)
    kind = field(2, VARINT, varint(data_type)) + field(14, VARINT, varint(location))
    return model_of(message(5, shape, kind, message(8, b"w"), *pairs))


def named(start: int, stop: int, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> ExternalSpan:
    return ExternalSpan("f.data", TensorSpan("w", dtype, shape, start, stop))


def test_external_data_of_the_library_is_found() -> None:
    """A tensor that the library made external has its place in the other file."""
    model = model_with([], [tensor("w", 1, 2), tensor("b", 3)])
    for initializer, offset in zip(model.graph.initializer, (0, 8), strict=True):
        onnx.external_data_helper.set_external_data(initializer, "f.data", offset)
        initializer.ClearField("raw_data")
    layout = scanned(model.SerializeToString())
    assert layout.spans == ()
    assert [(e.location, e.span.name, e.span.start, e.span.stop) for e in layout.external] == [
        ("f.data", "w", 0, 8),
        ("f.data", "b", 8, 12),
    ]


def test_external_data_of_attributes_is_found() -> None:
    """External tensors are found where inline ones are, under the same names."""
    value = tensor("", 1)
    onnx.external_data_helper.set_external_data(value, "f.data", 4096, 4)
    value.ClearField("raw_data")
    layout = scanned(model_with([node("Constant", "c", value=value)]).SerializeToString())
    assert layout.external == (
        ExternalSpan("f.data", TensorSpan("c/value", "F32", (1,), 4096, 4100)),
    )


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        pytest.param([("offset", "16"), ("length", "8")], named(16, 24), id="all"),
        pytest.param([("length", "8")], named(0, 8), id="no offset"),
        pytest.param([("offset", "16")], named(16, 24), id="no length"),
        pytest.param([("offset", "16"), ("length", "0")], named(16, 24), id="length 0"),
        pytest.param([("length", "9")], named(0, 9, "U8", (9,)), id="other length"),
        pytest.param([("checksum", "0" * 40)], named(0, 8), id="checksum"),
        pytest.param([("offset", "7"), ("offset", "8")], named(8, 16), id="last offset counts"),
    ],
)
def test_external_ranges(entries: list[tuple[str, str]], expected: ExternalSpan) -> None:
    """An absent offset is 0, and a length that is absent or 0 follows from dtype and shape."""
    layout = scanned(external([("location", "f.data"), *entries]))
    assert layout.external == (expected,)


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../f", "a/../../f", "..", "", "a\0b", b"\xff", "a" * (MAX_ENTRY + 1)],
)
def test_unsafe_locations_are_not_followed(location: str | bytes) -> None:
    """A location outside of the model's folder, or no path, drops the span, not the model."""
    assert scanned(external([("location", location)])) == Layout(Format.ONNX)


@pytest.mark.parametrize("location", ["f", "a/b.data", "a..b", "./f", "\u00e9"])
def test_locations_below_the_model_are_kept(location: str) -> None:
    """A relative path without `..` is followed as it is."""
    (span,) = scanned(external([("location", location)])).external
    assert span.location == location


@pytest.mark.parametrize(
    "entries",
    [
        [("offset", "-1")],
        [("offset", "1_0")],
        [("offset", " 1")],
        [("offset", "\u0661")],
        [("offset", "9" * 5000)],
        [("length", "x")],
        [("length", "")],
        [("offset", str(MAX_OFFSET)), ("length", "1")],
    ],
)
def test_unsound_external_ranges_are_dropped(entries: list[tuple[str, str]]) -> None:
    """An offset or length that is no plain number, or too large, drops the span."""
    assert scanned(external([("location", "f"), *entries])) == Layout(Format.ONNX)


def test_external_strings_of_unknown_length_are_dropped() -> None:
    """Without a length, a data type of no width or an absurd shape gives no span."""
    location = [("location", "f")]
    assert not scanned(external(location, data_type=TensorProto.STRING)).external
    assert not scanned(external(location, dims=[2**63])).external


def test_external_data_needs_its_location_field() -> None:
    """Entries of a tensor whose data location is not EXTERNAL are ignored."""
    assert not scanned(external([("location", "f")], location=0)).external


def test_a_fresh_tensor_has_no_entries_of_the_last() -> None:
    """The external data of one tensor are not those of the next."""
    first = external([("location", "f")])
    graph = first[4 : -len(OPSET)]
    layout = scanned(model_of(graph + message(5, field(14, VARINT, b"\x01"))))
    assert len(layout.external) == 1


EMPTY = model_of(b"")
REFUSED = {
    "ir_version 0": model_of(b"", ir_version=0),
    "ir_version too high": model_of(b"", ir_version=MAX_IR_VERSION + 1),
    "two ir_versions": field(1, VARINT, b"\x08") + EMPTY,
    "ir_version a string": message(1, b"8") + EMPTY[2:],
    "two graphs": EMPTY + message(7),
    "graph a number": field(1, VARINT, b"\x08") + field(7, VARINT, b"\x01") + OPSET,
    "opset a string": EMPTY[: -len(OPSET)] + message(8, b"hello"),
    "bad field in a node": model_of(message(1, field(1, VARINT, b"\x01"))),
    "field past its graph": model_of(b"\x0a\x05abc"),
    "text": b"\x08\x08 is how this text begins, and then it goes on for a while.",
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_other_messages_are_refused(content: bytes) -> None:
    """A file that breaks one rule of recognition is malformed."""
    with pytest.raises(MalformedModel) as refusal:
        scanned(content)
    assert type(refusal.value) is MalformedModel


INCOMPLETE = {
    "nothing": b"",
    "no ir_version": EMPTY[2:],
    "no graph": EMPTY[:2] + OPSET,
    "no opset": EMPTY[: -len(OPSET)],
}


@pytest.mark.parametrize("content", INCOMPLETE.values(), ids=INCOMPLETE)
def test_parts_of_a_model_are_truncated(content: bytes) -> None:
    """A file without a field that every model has is truncated."""
    with pytest.raises(TruncatedModel):
        scanned(content)


def test_the_oldest_models_need_no_opset() -> None:
    """Before IR version 3 there were no opset imports."""
    assert scanned(field(1, VARINT, b"\x02") + message(7)).format is Format.ONNX


MODEL = model_with(
    [node("Constant", "c", value=tensor("", 1, 2, 3)), node("Relu")], [tensor("w", 4, 5)]
).SerializeToString()


@pytest.mark.parametrize("size", range(len(MODEL)))
def test_a_cut_model_is_truncated(size: int) -> None:
    """A model that ends anywhere before its opset import, the last field, is truncated."""
    with pytest.raises(TruncatedModel):
        scanned(MODEL[:size])


@given(position=st.integers(0, len(MODEL) - 1), byte=st.integers(0, 255))
def test_spans_are_sound_whatever_a_byte_is(position: int, byte: int) -> None:
    """With one byte changed, spans are still in the file, in order and without overlap."""
    changed = bytearray(MODEL)
    changed[position] = byte
    with contextlib.suppress(MalformedModel):
        position = 0
        for span in scanned(bytes(changed)).spans:
            assert position <= span.start < span.stop <= len(MODEL)
            position = span.stop


@given(junk=st.binary(max_size=100))
def test_junk_is_refused(junk: bytes) -> None:
    """Any bytes, also as a graph, give a layout or `MalformedModel`."""
    with pytest.raises(MalformedModel):
        scanned(junk)
    with contextlib.suppress(MalformedModel):
        scanned(model_of(junk))


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(arrays=st.dictionaries(NAMES, st.binary(min_size=1, max_size=300), max_size=5))
def test_scan_finds_what_was_written(arrays: dict[str, bytes]) -> None:
    """Initializers of any names and sizes come back."""
    initializers = [
        helper.make_tensor(name, TensorProto.UINT8, [len(data)], data, raw=True)
        for name, data in arrays.items()
    ]
    assert contents(model_with([], initializers)) == arrays


def nested(levels: int) -> bytes:
    """Return nested graphs, each in an attribute of the one before: three messages a level."""
    graph = message(5, message(9, b"x"))
    for _ in range(levels):
        graph = message(1, message(5, message(6, graph)))
    return graph


def test_depth_is_bounded() -> None:
    """Graphs may nest as deep as protobuf lets them, and no deeper."""
    levels = (MAX_DEPTH - 2) // 3
    assert len(spans_of(nested(levels))) == 1
    onnx.load_model_from_string(model_of(nested(levels)))
    with pytest.raises(DecodeError):
        onnx.load_model_from_string(model_of(nested(levels + 1)))
    with pytest.raises(MalformedModel, match="deep"):
        spans_of(nested(levels + 1))
    with pytest.raises(MalformedModel, match="deep"):
        spans_of(nested(3_000))


def test_tensors_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More tensors than there is memory for are refused before they fill it."""
    monkeypatch.setattr(MemoryBudget, "SIZE", 10_000)
    assert len(spans_of(message(5, message(9, b"x")) * 10)) == 10
    with pytest.raises(MalformedModel, match="more tensors"):
        spans_of(message(5, message(9, b"x")) * 30)


def test_what_reading_raises_passes_through() -> None:
    """An error of the store is not taken for bad content."""

    def fail(offset: int, size: int) -> bytes:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        scan(fail, 100)


def test_every_field_of_the_library_is_known() -> None:
    """The schema lists each field of the library's messages, with its wire type."""
    wire_types = {
        AttributeProto.DESCRIPTOR.fields_by_name["f"].type: I32,
        AttributeProto.DESCRIPTOR.fields_by_name["i"].type: VARINT,
        AttributeProto.DESCRIPTOR.fields_by_name["type"].type: VARINT,
        TensorProto.DESCRIPTOR.fields_by_name["data_type"].type: VARINT,
        TensorProto.DESCRIPTOR.fields_by_name["uint64_data"].type: VARINT,
        TensorProto.DESCRIPTOR.fields_by_name["double_data"].type: I64,
    }
    for name, table in SCHEMA.items():
        descriptor = getattr(onnx, name.partition(" ")[0]).DESCRIPTOR
        for entry in descriptor.fields:
            wire = wire_types.get(entry.type, LEN)
            assert entry.number << 3 | wire in table, (name, entry.name)
            assert (entry.number << 3 | I64 in table) == (wire == I64), (name, entry.name)
