"""Arbitrary bytes as a model file, and the invariants of its scan."""

import contextlib
import struct
import zipfile
from collections.abc import Iterator
from typing import Final

import pytest
import safetensors

from modelfs.formats import safetensors as scanner
from modelfs.formats.dtypes import BITS
from modelfs.formats.layout import Format, Layout, MalformedModel, TensorSpan
from modelfs.formats.onnx import protobuf
from modelfs.formats.onnx import schema as onnx_schema
from modelfs.formats.onnx.protobuf import Event, Kind, Walk, packed_varints
from modelfs.formats.onnx.schema import Message
from modelfs.formats.sniff import external_layout, recognise
from modelfs.jobs.ingest.chunker import Cutter
from modelfs.store.index.ranges import RangeSet
from tests.support.file_bytes import message, reader, varint
from tests.support.paths import MODELS, TORCH
from tests.support.torch_archives import archive, mapping, pickled, tensor

STORAGES: Final = {key: bytes(24) for key in range(4)}
CHUNK: Final = 4096
# Longer files are not cut and put together again: the data need not be there for a header.
WHOLE_MAX: Final = 1 << 20
ROOTS: Final = tuple(Message)


# -- safetensors


def safetensors_file(content: bytes) -> None:
    """Take bytes for a file, and for the header of one."""
    layout = check_file(content)
    if layout.format is Format.SAFETENSORS:
        assert spans_by_library(content) == spans_of(content, layout)
    headed = struct.pack("<Q", len(content)) + content
    partial = recognise(reader(headed), len(headed), partial=True)
    if partial is not None and partial.format is Format.SAFETENSORS:
        # The whole file that begins like this, of zeros; it takes no memory.
        size = partial.spans[-1].stop if partial.spans else len(headed)
        assert recognise(reader(headed), size) == partial
        check_layout(partial, size, data_start=len(headed))


def spans_of(content: bytes, layout: Layout) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        span.name: (span.dtype, span.shape, content[span.start : span.stop])
        for span in layout.spans
    }


def spans_by_library(content: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    tensors = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    return {
        name: (tensor["dtype"], tuple(tensor["shape"]), bytes(tensor["data"]))
        for name, tensor in tensors
    }


def safetensors_seeds() -> Iterator[bytes]:
    for path in sorted(MODELS.glob("*.safetensors")):
        content = path.read_bytes()
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        yield header  # the whole file would be too long to be changed in the right places
    entry = b'"a":{"dtype":"F4","shape":[2,4],"data_offsets":[0,4]}'
    for header in (
        b"{%s}  " % entry,
        b'{"__metadata__":{"k":"\\u00e9"},%s}' % entry,
        b'{"__metadata__":null,%s,"\\n":{"dtype":"BOOL","shape":[],"data_offsets":[4,5]}}' % entry,
        b'{"a":{"x":[1.5,{"y":false}],"dtype":"U8","shape":[0,9],"data_offsets":[0,0]}}',
    ):
        yield header
        yield struct.pack("<Q", len(header)) + header + bytes(5)


# -- ONNX


def onnx_file(content: bytes) -> None:
    """Take bytes for a file, and for the graph of one."""
    check_file(content)
    check_file(model_of(content))


def onnx_seeds() -> Iterator[bytes]:
    yield (MODELS / "base-external.onnx").read_bytes()
    big = (MODELS / "base.onnx").read_bytes()
    yield big[:2048]
    tensor = b"\x08\x02\x10\x01\x42\x01w\x4a\x08" + bytes(8)
    location = b"\x6a\x0d\x0a\x08location\x12\x01f" + b"\x6a\x0b\x0a\x06offset\x12\x018"
    elsewhere = b"\x08\x02\x10\x01\x42\x01e\x70\x01" + location
    floats = b"\x0a\x01f\x3a\x80\x01" + bytes(128)
    for graph in (
        message(5, tensor),
        message(5, tensor) * 3,
        message(5, elsewhere),
        message(15, message(1, tensor) + message(2, b"\x0a\x01\x02\x10\x07\x3a\x01\x01")),
        message(1, b"\x12\x01o" + message(5, b"\x0a\x01a" + message(5, tensor))),
        message(1, b"\x1a\x01n" + message(5, floats)),
        message(1, message(5, message(6, message(5, tensor)))),
    ):
        yield graph
        model = model_of(graph)
        yield model
        yield model + message(20, message(2, graph)) + message(25, b"\x0a\x01f")


def model_of(graph: bytes) -> bytes:
    """Return an ONNX model whose graph has these bytes."""
    return b"\x08\x08" + message(7, graph) + b"\x42\x02\x10\x11"


def external(location: bytes, offset: int, size: int) -> bytes:
    """Return a graph's field: a tensor of bytes that lie in another file."""
    entries = ((b"location", location), (b"offset", b"%d" % offset), (b"length", b"%d" % size))
    data = b"".join(message(13, message(1, key), message(2, value)) for key, value in entries)
    return message(5, b"\x08", varint(size), b"\x10\x02\x42\x01w\x70\x01", data)


# -- torch


def torch_file(content: bytes) -> None:
    """Take bytes for an archive, and for the pickle of one."""
    check_file(content)
    layout = check_file(archive(content, STORAGES))
    assert layout.format is Format.TORCH
    assert len(layout.spans) == len(STORAGES)


def torch_seeds() -> Iterator[bytes]:
    for path in sorted(TORCH.glob("*.pt")):
        content = path.read_bytes()
        yield content
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                yield file.read(next(name for name in file.namelist() if "/data.pkl" in name))
    yield archive(pickled(mapping({"a": tensor(0, [6])})), STORAGES, aligned=1)


# -- protobuf


def protobuf_message(content: bytes) -> None:
    """Take the first byte for the message's name, and the others for the message."""
    if not content:
        return
    root, body = ROOTS[content[0] % len(ROOTS)], content[1:]
    events = walked(body, root)
    check_events(events, len(body))
    with small_protobuf_windows():
        assert walked(body, root) == events
    with contextlib.suppress(MalformedModel):
        assert sum(1 for _ in packed_varints(body)) == sum(byte < 0x80 for byte in body)


def walked(body: bytes, root: Message) -> list[Event]:
    """Return the events up to the end or to the first thing that is malformed."""
    events: list[Event] = []
    with contextlib.suppress(MalformedModel):
        events.extend(Walk(reader(body), len(body), onnx_schema.SCHEMA, root).events())
    return events


@contextlib.contextmanager
def small_protobuf_windows() -> Iterator[None]:
    """Let windows be so small that fields straddle them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protobuf, "WINDOW", 29)
        patch.setattr(protobuf, "WINDOW_AFTER_JUMP", 23)
        yield


def check_events(events: list[Event], size: int) -> None:
    """Messages nest, and none runs past the end of its parent."""
    stops = [size]
    at = 0
    for event in events:
        assert event.kind is Kind.LEAVE or at <= event.start
        assert event.start <= event.stop <= stops[-1] or event.kind is Kind.LEAVE
        if event.kind is Kind.ENTER:
            stops.append(event.stop)
            at = event.start
        elif event.kind is Kind.LEAVE:
            at = stops.pop()
            assert at == event.stop
        else:
            at = event.stop


def protobuf_seeds() -> Iterator[bytes]:
    for number, root in enumerate(ROOTS):
        for seed in onnx_seeds():
            if root in (Message.MODEL, Message.GRAPH):
                yield bytes([number]) + seed
        yield bytes([number]) + b"\x08\x01\x10\x02" + b"\xff\x01\x00\x7a\x03abc"


# -- what holds of every layout


def check_file(content: bytes) -> Layout:
    """Recognise a file, check its layout, and return it."""
    size = len(content)
    layout = recognise(reader(content), size)
    check_layout(layout, size)
    if layout.format is Format.SAFETENSORS:
        header = int.from_bytes(content[:8], "little")
        check_layout(layout, size, data_start=scanner.LENGTH_SIZE + header)
    partial = recognise(reader(content), size, partial=True)
    assert partial in (None, layout) or layout.format is Format.PLAIN
    for data_size in (size, 1 << 20, 1 << 62):
        data = external_layout([each.span for each in layout.external], data_size)
        check_layout(data, data_size)
    return layout


def check_layout(layout: Layout, size: int, *, data_start: int | None = None) -> None:
    """Spans are in order, in the file, and apart; from `data_start` on, they tile it."""
    at = data_start or 0
    for span in layout.spans:
        _check_span(span)
        assert span.start == at if data_start is not None else span.start >= at
        at = span.stop
    assert at == size if data_start is not None else at <= size
    for external in layout.external:
        _check_span(external.span)
        assert external.location
        assert not external.location.startswith("/")
        assert ".." not in external.location.split("/")
    if size <= WHOLE_MAX:
        _check_cut(layout, size)


def _check_span(span: TensorSpan) -> None:
    assert 0 <= span.start <= span.stop < 1 << 63
    bits = BITS[span.dtype]
    for dim in span.shape:
        bits *= dim
    assert (bits + 7) // 8 == span.size


def _check_cut(layout: Layout, size: int) -> None:
    at = 0
    for piece in Cutter(layout.spans, size, CHUNK).pieces(RangeSet([(0, size)] if size else [])):
        assert piece.start == at < piece.stop
        assert piece.stop - piece.start <= CHUNK
        at = piece.stop
    assert at == size
