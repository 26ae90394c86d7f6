"""The tensors of an ONNX model, found without loading it.

A model is a ModelProto (onnx/onnx.proto; `schema` has the field numbers). Tensors are in more
places than the graph's initializers: sparse initializers, attributes of nodes, the graphs that are
attributes of If, Loop and Scan, local functions, training graphs. The name of each is the path that
leads to it::

    w                                an initializer of the graph
    sw/values, sw/indices            a sparse initializer
    node/attribute                   a tensor, or packed floats or ints, of a node
    node/attribute/w                 an initializer of a graph that is an attribute
    functions/f/node/attribute       the same in a function
    training_info/algorithm/w        the same in training
    w#2, w#3                         the second and the third tensor at the path `w`

A node without a name has that of its first output. Names are for people and for finding a tensor's
earlier version: they are cut where they would be absurdly long.

Recognition is conservative, since protobuf has no magic number, and other files may by chance be
framed like it: a model has one `ir_version` in its range, one graph, the opset imports that its
version demands, and no field of a wrong wire type in any message of the walk.
"""

import sys
from collections.abc import Callable
from typing import Final

from modelfs.formats.budget import MemoryBudget
from modelfs.formats.layout import (
    ExternalSpan,
    Format,
    Layout,
    MalformedModel,
    ReadAt,
    TensorSpan,
    TruncatedModel,
)
from modelfs.formats.names import MAX_NAME, UniqueNames
from modelfs.formats.onnx import schema as onnx_schema
from modelfs.formats.onnx import tensor as onnx_tensor
from modelfs.formats.onnx.protobuf import MAX_VARINT, Event, Kind, Walk, packed_varints
from modelfs.formats.onnx.schema import Leaf, Message
from modelfs.formats.onnx.tensor import Payload, Tensor

# Versions have gone from 1 to 14 in eight years.
MAX_IR_VERSION: Final = 100

# `opset_import` is required from this version on ("IR_VERSION_2017_11_3" in onnx.proto).
FIRST_IR_WITH_OPSETS: Final = 3

# The memory of a payload until its tensor ends, and of a location besides its characters.
NOTE: Final = 150

# Longer strings in `external_data` are no path (PATH_MAX) and no number.
MAX_ENTRY: Final = 4096

# A row of numbers in an attribute is worth a span, and so a chunk, only if it is not the
# `[1, 1, 2, 2]` that most of them are.
MIN_ROW: Final = 128

# The part of the path that a message adds before its name is known, keyed by its field.
LABELS: Final[dict[tuple[str, int], str]] = {
    (Message.TRAINING, onnx_schema.length(20)): "training_info",
    (Message.GRAPH, onnx_schema.INITIALIZATION): "initialization",
    (Message.GRAPH, onnx_schema.ALGORITHM): "algorithm",
    (Message.FUNCTION, onnx_schema.length(25)): "functions",
    (Message.INITIALIZER, onnx_schema.length(5)): "initializer",
    (Message.SPARSE, onnx_schema.length(15)): "sparse_initializer",
    (Message.VALUES, onnx_schema.VALUES): "values",
    (Message.TENSOR, onnx_schema.INDICES): "indices",
}

TENSORS: Final = frozenset({Message.TENSOR, Message.INITIALIZER, Message.VALUES})


def begins(head: bytes) -> bool:
    """Return whether a file that begins with these bytes could be a model.

    Every writer of protobuf writes fields in the order of their numbers, and `ir_version` is 1.
    """
    return head[:1] == bytes([onnx_schema.varint(1)])


def scan(read_at: ReadAt, size: int) -> Layout:
    """Find the tensors of an ONNX file of `size` bytes, here and in external data.

    Returns:
        Spans in file order, and the external ones in the order of the tensors that name them.

    Raises:
        TruncatedModel: the bytes are sound, but end before the model does.
        MalformedModel: they are no model.
    """
    scanner = _Scanner(Walk(read_at, size, onnx_schema.SCHEMA, Message.MODEL))
    return scanner.run()


class _Scanner:
    """The labels of the open messages, and the spans of the tensors read so far."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._labels: list[str] = []
        self._tensor = Tensor()
        self._entry: dict[str, bytes] = {}  # key and value, by leaf
        self._ir_version = 0
        self._graphs = 0
        self._opsets = 0
        self._budget = MemoryBudget()
        self._names = UniqueNames()
        self._spans: list[TensorSpan] = []
        self._external: list[ExternalSpan] = []
        self._on_field: dict[str, Callable[[Event], None]] = {
            Leaf.IR_VERSION: self._set_number,
            Leaf.NAME: self._set_label,
            Leaf.FUNCTION_NAME: self._set_label,
            Leaf.SPARSE_NAME: self._set_label,
            Leaf.OUTPUT: self._set_label,
            Leaf.FLOATS: self._add_row,
            Leaf.INTS: self._add_row,
            Leaf.DIM: self._add_dims,
            Leaf.DIMS: self._add_dims,
            Leaf.DATA_TYPE: self._set_number,
            Leaf.DATA_LOCATION: self._set_number,
            Leaf.PAYLOAD: self._add_payload,
            Leaf.KEY: self._set_entry,
            Leaf.VALUE: self._set_entry,
        }

    def run(self) -> Layout:
        on_field = self._on_field
        for event in self._walk.events():
            if event.kind is Kind.FIELD:
                on_field[event.word](event)
            elif event.kind is Kind.ENTER:
                self._enter(event)
            else:
                self._leave(event)
        opsets_needed = int(self._ir_version >= FIRST_IR_WITH_OPSETS)
        if not self._ir_version or not self._graphs or self._opsets < opsets_needed:
            raise TruncatedModel("no ir_version, graph or opset_import")
        return Layout(Format.ONNX, tuple(self._spans), tuple(self._external))

    def _enter(self, event: Event) -> None:
        if not self._labels:
            self._opsets += event.word == Message.OPSET
            self._graphs += event.word == Message.GRAPH
            if self._graphs > 1:
                raise MalformedModel("two graphs")
        self._labels.append(LABELS.get((event.word, event.tag), ""))
        if event.word in TENSORS:
            self._tensor = Tensor()
        elif event.word == Message.ENTRY:
            self._entry = {}

    def _leave(self, event: Event) -> None:
        if event.word in TENSORS:
            for payload in self._tensor.payloads():
                self._add_span(payload)
            external = self._tensor.external()
            if external is not None:
                location, payload = external
                self._budget.reserve(NOTE + sys.getsizeof(location))
                self._external.append(ExternalSpan(location, self._span(payload)))
        elif event.word == Message.ENTRY:
            key, value = (self._entry.get(leaf, b"") for leaf in (Leaf.KEY, Leaf.VALUE))
            self._tensor.add_entry(key, value)
        self._labels.pop()

    def _set_label(self, event: Event) -> None:
        stop = min(event.stop, event.start + MAX_NAME)
        text = self._walk.read(event.start, stop).decode(errors="replace")
        match event.word:
            case Leaf.NAME:
                self._labels[-1] = text or self._labels[-1]
            case Leaf.FUNCTION_NAME:
                self._labels[-1] = f"functions/{text}"
            case Leaf.OUTPUT:  # only a node without a name has that of its first output
                self._labels[-1] = self._labels[-1] or text
            case Leaf.SPARSE_NAME:  # the name of the values is that of the sparse tensor
                self._labels[-2] = text or self._labels[-2]

    def _add_row(self, event: Event) -> None:
        if event.value < MIN_ROW:
            return
        if event.word == Leaf.FLOATS:
            self._add_span(onnx_tensor.row("F32", event.start, event.stop))
        else:
            self._add_span(onnx_tensor.plain(event.start, event.stop))

    def _add_dims(self, event: Event) -> None:
        if event.word == Leaf.DIM:
            self._tensor.add_dim(event.value)
        elif event.value > MAX_VARINT * onnx_tensor.MAX_DIMS:
            self._tensor.add_dim(onnx_tensor.UNKNOWN)
        else:
            for dim in packed_varints(self._walk.read(event.start, event.stop)):
                self._tensor.add_dim(dim)

    def _set_number(self, event: Event) -> None:
        if event.word == Leaf.DATA_TYPE:
            self._tensor.data_type = event.value
        elif event.word == Leaf.DATA_LOCATION:
            self._tensor.data_location = event.value
        elif self._ir_version or not 1 <= event.value <= MAX_IR_VERSION:
            raise MalformedModel(f"ir_version {event.value}")
        else:
            self._ir_version = event.value

    def _add_payload(self, event: Event) -> None:
        self._budget.reserve(NOTE)
        self._tensor.fields.append((event.tag, event.start, event.stop))

    def _set_entry(self, event: Event) -> None:
        fits = event.value <= MAX_ENTRY
        self._entry[event.word] = self._walk.read(event.start, event.stop) if fits else b""

    def _add_span(self, payload: Payload) -> None:
        self._spans.append(self._span(payload))

    def _span(self, payload: Payload) -> TensorSpan:
        name = self._names.add("/".join(filter(None, self._labels)))
        self._budget.reserve_name(name)
        self._budget.reserve_span(len(payload.shape))
        return TensorSpan(name, *payload)
