"""The messages of onnx.proto in which tensors are found, with all of their fields.

Field numbers are those of onnx/onnx.proto, IR version 14. All fields of a message are listed, so
that a wrong wire type shows that a file is no ONNX; other numbers are those of later versions.
Repeated numbers come packed or not, as the writer preferred: both tags are listed.

Messages that hold no tensor (ValueInfoProto, TypeProto, ...) are skipped like strings.
"""

import enum
from typing import Final

from modelfs.formats.onnx.protobuf import I32, I64, LEN, RUN, SKIP, VARINT, Schema, complete


class Message(enum.StrEnum):
    """A message to enter. A tensor whose name is used in another way is a message of its own."""

    MODEL = "ModelProto"
    TRAINING = "TrainingInfoProto"
    FUNCTION = "FunctionProto"
    OPSET = "OperatorSetIdProto"
    GRAPH = "GraphProto"
    NODE = "NodeProto"
    ATTRIBUTE = "AttributeProto"
    SPARSE = "SparseTensorProto"
    TENSOR = "TensorProto"
    INITIALIZER = "TensorProto of GraphProto"
    VALUES = "TensorProto of SparseTensorProto"
    ENTRY = "StringStringEntryProto"


class Leaf(enum.StrEnum):
    """A field to report."""

    IR_VERSION = "ir_version"
    NAME = "name"
    FUNCTION_NAME = "name of function"
    SPARSE_NAME = "name of values"
    OUTPUT = "output"
    FLOATS = "floats"
    INTS = "ints"
    DIM = "dim"
    DIMS = "dims"
    DATA_TYPE = "data_type"
    DATA_LOCATION = "data_location"
    PAYLOAD = "payload"
    KEY = "key"
    VALUE = "value"


def varint(number: int) -> int:
    return number << 3 | VARINT


def length(number: int) -> int:
    return number << 3 | LEN


def fixed32(number: int) -> int:
    return number << 3 | I32


def fixed64(number: int) -> int:
    return number << 3 | I64


# Tags by which the scan distinguishes fields that have the same word.
INITIALIZATION: Final = length(1)
ALGORITHM: Final = length(2)
VALUES: Final = length(1)
INDICES: Final = length(2)
FLOAT_DATA: Final = length(4)
INT32_DATA: Final = length(5)
INT64_DATA: Final = length(7)
RAW_DATA: Final = length(9)
DOUBLE_DATA: Final = length(10)
UINT64_DATA: Final = length(11)

_MODEL: Final = {
    varint(1): Leaf.IR_VERSION,
    length(2): SKIP,  # producer_name
    length(3): SKIP,  # producer_version
    length(4): SKIP,  # domain
    varint(5): SKIP,  # model_version
    length(6): SKIP,  # doc_string
    length(7): Message.GRAPH,
    length(8): Message.OPSET,  # opset_import
    length(14): SKIP,  # metadata_props
    length(20): Message.TRAINING,  # training_info
    length(25): Message.FUNCTION,  # functions
    length(26): SKIP,  # configuration
}

_TRAINING: Final = {
    INITIALIZATION: Message.GRAPH,
    ALGORITHM: Message.GRAPH,
    length(3): SKIP,  # initialization_binding
    length(4): SKIP,  # update_binding
}

_FUNCTION: Final = {
    length(1): Leaf.FUNCTION_NAME,
    varint(2): SKIP,  # since_version, until IR version 8
    varint(3): SKIP,  # status, until IR version 8
    length(4): SKIP,  # input
    length(5): SKIP,  # output
    length(6): SKIP,  # attribute
    length(7): Message.NODE,
    length(8): SKIP,  # doc_string
    length(9): Message.OPSET,  # opset_import
    length(10): SKIP,  # domain
    length(11): Message.ATTRIBUTE,  # attribute_proto
    length(12): SKIP,  # value_info
    length(13): SKIP,  # overload
    length(14): SKIP,  # metadata_props
}

_OPSET: Final = {
    length(1): SKIP,  # domain
    varint(2): SKIP,  # version
}

_GRAPH: Final = {
    length(1): Message.NODE,
    length(2): SKIP,  # name
    length(5): Message.INITIALIZER,
    length(10): SKIP,  # doc_string
    length(11): SKIP,  # input
    length(12): SKIP,  # output
    length(13): SKIP,  # value_info
    length(14): SKIP,  # quantization_annotation
    length(15): Message.SPARSE,  # sparse_initializer
    length(16): SKIP,  # metadata_props
}

_NODE: Final = {
    length(1): SKIP,  # input
    length(2): Leaf.OUTPUT,
    length(3): Leaf.NAME,
    length(4): SKIP,  # op_type
    length(5): Message.ATTRIBUTE,
    length(6): SKIP,  # doc_string
    length(7): SKIP,  # domain
    length(8): SKIP,  # overload
    length(9): SKIP,  # metadata_props
    length(10): SKIP,  # device_configurations
}

_ATTRIBUTE: Final = {
    length(1): Leaf.NAME,
    fixed32(2): SKIP,  # f
    varint(3): SKIP,  # i
    length(4): SKIP,  # s
    length(5): Message.TENSOR,  # t
    length(6): Message.GRAPH,  # g
    length(7): Leaf.FLOATS,
    fixed32(7): RUN,
    length(8): Leaf.INTS,
    varint(8): RUN,
    length(9): SKIP,  # strings
    length(10): Message.TENSOR,  # tensors
    length(11): Message.GRAPH,  # graphs
    length(13): SKIP,  # doc_string
    length(14): SKIP,  # tp
    length(15): SKIP,  # type_protos
    varint(20): SKIP,  # type
    length(21): SKIP,  # ref_attr_name
    length(22): Message.SPARSE,  # sparse_tensor
    length(23): Message.SPARSE,  # sparse_tensors
}

_SPARSE: Final = {
    VALUES: Message.VALUES,
    INDICES: Message.TENSOR,
    length(3): SKIP,  # dims
    varint(3): RUN,
}

_TENSOR: Final = {
    varint(1): Leaf.DIM,
    length(1): Leaf.DIMS,
    varint(2): Leaf.DATA_TYPE,
    length(3): SKIP,  # segment
    FLOAT_DATA: Leaf.PAYLOAD,
    fixed32(4): RUN,
    INT32_DATA: Leaf.PAYLOAD,
    varint(5): RUN,
    length(6): SKIP,  # string_data
    INT64_DATA: Leaf.PAYLOAD,
    varint(7): RUN,
    length(8): SKIP,  # name
    RAW_DATA: Leaf.PAYLOAD,
    DOUBLE_DATA: Leaf.PAYLOAD,
    fixed64(10): RUN,
    UINT64_DATA: Leaf.PAYLOAD,
    varint(11): RUN,
    length(12): SKIP,  # doc_string
    length(13): Message.ENTRY,  # external_data
    varint(14): Leaf.DATA_LOCATION,
    length(16): SKIP,  # metadata_props
}

_ENTRY: Final = {
    length(1): Leaf.KEY,
    length(2): Leaf.VALUE,
}


SCHEMA: Final[Schema] = {
    Message.MODEL: complete(_MODEL),
    Message.TRAINING: complete(_TRAINING),
    Message.FUNCTION: complete(_FUNCTION),
    Message.OPSET: complete(_OPSET),
    Message.GRAPH: complete(_GRAPH),
    Message.NODE: complete(_NODE),
    Message.ATTRIBUTE: complete(_ATTRIBUTE),
    Message.SPARSE: complete(_SPARSE),
    Message.TENSOR: complete(_TENSOR),
    Message.INITIALIZER: complete(_TENSOR | {length(8): Leaf.NAME}),
    Message.VALUES: complete(_TENSOR | {length(8): Leaf.SPARSE_NAME}),
    Message.ENTRY: complete(_ENTRY),
}
