"""One TensorProto: where its payload lies, and of which elements it consists.

A tensor's elements are in `raw_data`, or in a typed field, or in another file (onnx.proto,
"message TensorProto"). Only `raw_data`, `float_data` and `double_data` store elements of a fixed
width. The others are varints, whose bytes are worth keeping together but are no elements: their
span is one of plain bytes, dtype `U8`. So is that of a payload whose length is not the one of its
dtype and dims.

Example. A tensor of data type 1 and dims 2, 3 with 24 bytes of `raw_data` from 100 on has the
payload `Payload("F32", (2, 3), 100, 124)`, with 23 bytes `Payload("U8", (23,), 100, 123)`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from modelfs.formats.dtypes import BITS, ONNX_DTYPES, tensor_size
from modelfs.formats.onnx import schema as onnx_schema

# A shape of more dimensions is taken for unknown: it is not to cost memory.
MAX_DIMS: Final = 64
UNKNOWN: Final = -1

EXTERNAL: Final = 1  # DataLocation

LOCATION: Final = b"location"
OFFSET: Final = b"offset"
LENGTH: Final = b"length"

MAX_OFFSET: Final = 2**63 - 1
_DECIMAL: Final = re.compile(rb"[0-9]{1,19}")

# The dtypes that a payload's elements may have, by its tag; the first is the field's own. Those of
# `raw_data` may have any.
STORED_DTYPES: Final[dict[int, tuple[str, ...]]] = {
    onnx_schema.RAW_DATA: ("U8", *BITS),
    onnx_schema.FLOAT_DATA: ("F32", "C64"),
    onnx_schema.DOUBLE_DATA: ("F64", "C128"),
    onnx_schema.INT32_DATA: (),
    onnx_schema.INT64_DATA: (),
    onnx_schema.UINT64_DATA: (),
}


class Payload(NamedTuple):
    """Bytes of a tensor, from `start` to `stop` of the file they are in."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def plain(start: int, stop: int) -> Payload:
    """Return a payload of plain bytes."""
    return Payload("U8", (stop - start,), start, stop)


def row(dtype: str, start: int, stop: int) -> Payload:
    """Return a row of elements; plain bytes if these are no whole number of elements."""
    count, rest = divmod(8 * (stop - start), BITS[dtype])
    return plain(start, stop) if rest else Payload(dtype, (count,), start, stop)


@dataclass(slots=True)
class Tensor:
    """A TensorProto as its fields come in."""

    data_type: int = 0
    data_location: int = 0
    dims: list[int] = field(default_factory=list)
    fields: list[tuple[int, int, int]] = field(default_factory=list)  # tag, start, stop
    external_data: dict[bytes, bytes] = field(default_factory=dict)

    def add_dim(self, dim: int) -> None:
        self.dims.append(dim)
        if len(self.dims) > MAX_DIMS:
            self.dims[:] = [UNKNOWN]

    def add_entry(self, key: bytes, value: bytes) -> None:
        """Note an entry of `external_data`, if it is one of the place of the bytes."""
        if key in (LOCATION, OFFSET, LENGTH):
            self.external_data[key] = value

    def payloads(self) -> Iterator[Payload]:
        """Yield the payloads in this file. A field of no bytes is none."""
        for tag, start, stop in self.fields:
            if start < stop:
                yield self._payload(tag, start, stop)

    def external(self) -> tuple[str, Payload] | None:
        """Return the other file that has the tensor's bytes, and their place in it.

        None if there is no other file, if its location is outside of the model's folder, or if
        the place is no range of a file.
        """
        location = _location(self.external_data.get(LOCATION, b""))
        offset = _decimal(self.external_data.get(OFFSET, b"0"))
        dtype = ONNX_DTYPES.get(self.data_type)
        length = _decimal(self.external_data.get(LENGTH, b"0"))
        if length == 0 and dtype is not None:
            # Some exporters give none, or 0: then the shape has it, as for ONNX's own reader.
            length = tensor_size(dtype, self.dims)
        if self.data_location != EXTERNAL or location is None or offset is None or not length:
            return None
        if offset + length > MAX_OFFSET:
            return None
        return location, self._payload(onnx_schema.RAW_DATA, offset, offset + length)

    def _payload(self, tag: int, start: int, stop: int) -> Payload:
        stored = STORED_DTYPES[tag]
        dtype = ONNX_DTYPES.get(self.data_type)
        if dtype in stored and tensor_size(dtype, self.dims) == stop - start:
            return Payload(dtype, tuple(self.dims), start, stop)
        return row(stored[0], start, stop) if stored else plain(start, stop)


def _location(value: bytes) -> str | None:
    try:
        location = value.decode()
    except UnicodeDecodeError:
        return None
    if not location or "\0" in location or location.startswith("/"):
        return None
    return None if ".." in location.split("/") else location


def _decimal(value: bytes) -> int | None:
    return int(value) if _DECIMAL.fullmatch(value) else None
