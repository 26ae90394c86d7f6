"""Scanning safetensors files."""

import contextlib
import json
import random
import struct
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from modelfs.formats.dtypes import SAFETENSORS_BITS
from modelfs.formats.layout import (
    Format,
    Layout,
    MalformedModel,
    TensorSpan,
    TruncatedModel,
)
from modelfs.formats.safetensors import MAX_HEADER_SIZE, scan
from tests.support.file_bytes import reader

ENTRY = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
DATA = bytes(4)


def scanned(content: bytes) -> Layout:
    return scan(reader(content), len(content))


def by_library(content: bytes) -> dict[str, bytes]:
    tensors = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    return {name: bytes(tensor["data"]) for name, tensor in tensors}


def file_of(header: str | bytes, data: bytes = DATA) -> bytes:
    encoded = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(encoded)) + encoded + data


def entry(name: str, dtype: str, shape: list[int], offsets: list[int]) -> str:
    return f'"{name}":' + json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets})


def contents(content: bytes) -> dict[str, bytes]:
    return {span.name: content[span.start : span.stop] for span in scanned(content).spans}


NUMPY_DTYPES = ["f8", "f4", "f2", "i8", "u8", "i4", "u4", "i2", "u2", "i1", "u1", "?"]


def test_every_dtype_of_numpy_is_found() -> None:
    """The spans of a file that the library wrote hold the arrays' bytes, and tile the data."""
    arrays = {name: np.arange(6).reshape(2, 3).astype(name) for name in NUMPY_DTYPES}
    content = save(arrays)
    assert contents(content) == {name: array.tobytes() for name, array in arrays.items()}
    spans = scanned(content).spans
    assert [span.start for span in spans[1:]] == [span.stop for span in spans[:-1]]
    assert spans[-1].stop == len(content)
    assert {span.shape for span in spans} == {(2, 3)}


@pytest.mark.parametrize("dtype", SAFETENSORS_BITS)
def test_every_dtype_of_the_format_is_found(dtype: str) -> None:
    """A tensor of 8 elements of any dtype is as many bytes as its bits."""
    size = SAFETENSORS_BITS[dtype]
    content = file_of("{" + entry("a", dtype, [2, 4], [0, size]) + "}", bytes(range(size)))
    (span,) = scanned(content).spans
    assert (span.dtype, span.shape) == (dtype, (2, 4))
    assert {"a": content[span.start : span.stop]} == by_library(content)


def test_empty_tensors_and_scalars_are_found() -> None:
    """A tensor of no bytes has a span of no bytes, next to a scalar at the same place."""
    content = save({"none": np.zeros((0, 3), "f4"), "one": np.array(1.5, "f4")})
    assert contents(content) == {"none": b"", "one": struct.pack("<f", 1.5)}


def test_a_file_without_tensors_is_one() -> None:
    """An empty header and no data are a consistent file."""
    assert scanned(file_of("{}", b"")) == Layout(Format.SAFETENSORS)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(f"{{{ENTRY}}}   ", id="padding"),
        pytest.param(f" \n{{{ENTRY}}}", id="space before"),
        pytest.param(json.dumps(json.loads(f"{{{ENTRY}}}"), indent=8), id="indented"),
        pytest.param(f'{{"__metadata__":{{"b":"c","d":"\\u00e9"}},{ENTRY}}}', id="metadata"),
        pytest.param(f'{{{ENTRY},"__metadata__":{{}}}}', id="empty metadata last"),
        pytest.param(f'{{"__metadata__":null,{ENTRY}}}', id="null metadata"),
        pytest.param(f'{{{ENTRY[:-1]},"x":[1.5,{{}}]}}}}', id="unknown field"),
        pytest.param(f'{{{ENTRY[:-1]},"x":"{"y" * 5000}"}}}}', id="long unknown field"),
        pytest.param(f"{{{ENTRY}}}".replace('"a"', '"\\u0061"'), id="escaped name"),
    ],
)
def test_what_the_library_reads_is_read(header: str) -> None:
    """Deviations that change no span are accepted, as the library does."""
    content = file_of(header)
    (name,) = by_library(content)
    (span,) = scanned(content).spans
    assert span == TensorSpan(name, "F32", (1,), len(content) - 4, len(content))


def test_names_in_any_order_give_spans_in_file_order() -> None:
    """Names may come in any order in the header; the data may not."""
    last, first = entry("a", "U8", [1], [3, 4]), entry("b", "U8", [3], [0, 3])
    assert [s.name for s in scanned(file_of(f"{{{last},{first}}}")).spans] == ["b", "a"]


TENSORS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"])).filter(lambda n: n != "__metadata__"),
    st.tuples(st.sampled_from(["U8", "F16", "F32", "F4"]), st.lists(st.integers(0, 4), max_size=3)),
)


@given(tensors=TENSORS, order=st.randoms(use_true_random=False), indent=st.none() | st.just(1))
def test_scan_finds_what_was_written(
    tensors: dict[str, tuple[str, list[int]]], order: random.Random, indent: int | None
) -> None:
    """Any names, dtypes and shapes come back, under any order and spacing of the header."""
    header, expected, position = {}, [], 0
    for name, (dtype, dims) in tensors.items():
        shape = [*dims, 2]
        size = int(np.prod(shape)) * SAFETENSORS_BITS[dtype] // 8
        offsets = [position, position + size]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        expected.append((name, dtype, tuple(shape), size))
        position += size
    names = list(header)
    order.shuffle(names)
    content = file_of(json.dumps({n: header[n] for n in names}, indent=indent), bytes(position))
    scanned_tensors = [(s.name, s.dtype, s.shape, s.size) for s in scanned(content).spans]
    assert sorted(scanned_tensors) == sorted(expected)


HOSTILE: dict[str, bytes] = {
    "header past the end": struct.pack("<Q", 1000) + b"{}",
    "header over the cap": struct.pack("<Q", MAX_HEADER_SIZE + 1) + b"{}" + bytes(64),
    "header of 2**64 - 1": b"\xff" * 8 + b"{}",
    "no object": file_of("[]", b""),
    "array behind space": file_of(" []", b""),
    "open object": file_of("{" + ENTRY),
    "trailing comma": file_of("{" + ENTRY + ",}"),
    "text behind": file_of("{" + ENTRY + "}x"),
    "zero padding": file_of("{" + ENTRY + "}\0"),
    "not UTF-8": file_of(b"{" + ENTRY.encode().replace(b"a", b"\xff") + b"}"),
    "lone surrogate": file_of("{" + ENTRY.replace('"a"', '"\\ud800"') + "}"),
    "control character": file_of("{" + ENTRY.replace('"a"', '"\n"') + "}"),
    "bad escape": file_of("{" + ENTRY.replace('"a"', '"\\x"') + "}"),
    "bad escape after a good one": file_of("{" + ENTRY.replace('"a"', '"\\n\\x"') + "}"),
    "bad escape in metadata": file_of('{"__metadata__":{"k":"\\x"},' + ENTRY + "}"),
    "bad escape after a good one in metadata": file_of(
        '{"__metadata__":{"k":"\\n\\x"},' + ENTRY + "}"
    ),
    "cut escape after a good one in metadata": file_of(
        '{"__metadata__":{"k":"\\n\\u12"},' + ENTRY + "}"
    ),
    "escaped quote at the end of metadata": file_of('{"__metadata__":{"k":"\\n\\"},' + ENTRY + "}"),
    "repeated name": file_of(f"{{{ENTRY},{ENTRY}}}"),
    "name repeated by an escape": file_of(f"{{{ENTRY},{ENTRY}}}".replace('"a"', '"\\u0061"', 1)),
    "repeated field": file_of("{" + ENTRY.replace("{", '{"dtype":"F32",') + "}"),
    "repeated field in an unknown field": file_of(
        "{" + ENTRY.replace("{", '{"x":{"y":1,"y":2},') + "}"
    ),
    "repeated metadata": file_of(f'{{"__metadata__":{{"b":"c","b":"c"}},{ENTRY}}}'),
    "metadata of numbers": file_of(f'{{"__metadata__":{{"b":1}},{ENTRY}}}'),
    "metadata a list": file_of(f'{{"__metadata__":[],{ENTRY}}}'),
    "entry a list": file_of('{"a":["F32",[1],[0,4]]}'),
    "entry never ends": file_of('{"a":{' + " " * 100_000),
    "unknown dtype": file_of("{" + ENTRY.replace("F32", "F31") + "}"),
    "dtype of ONNX": file_of("{" + entry("a", "U4", [8], [0, 4]) + "}"),
    "dtype a list": file_of("{" + ENTRY.replace('"F32"', '["F32"]') + "}"),
    "no dtype": file_of("{" + ENTRY.replace("dtype", "d") + "}"),
    "no shape": file_of("{" + ENTRY.replace("shape", "s") + "}"),
    "shape of floats": file_of("{" + ENTRY.replace("[1]", "[1.0]") + "}"),
    "shape of booleans": file_of("{" + ENTRY.replace("[1]", "[true]") + "}"),
    "negative shape": file_of("{" + ENTRY.replace("[1]", "[-1,-1]") + "}"),
    "NaN": file_of("{" + ENTRY.replace("[1]", "[NaN]") + "}"),
    "infinity in an unknown field": file_of("{" + ENTRY.replace("{", '{"x":-Infinity,') + "}"),
    "integer overflow": file_of("{" + entry("a", "F32", [2**62, 4, 0], [0, 0]) + "}", b""),
    "integer of 100 digits": file_of("{" + ENTRY.replace("[1]", f"[{'9' * 100}]") + "}"),
    "integer of 5000 digits": file_of("{" + ENTRY.replace("[1]", f"[{'9' * 5000}]") + "}"),
    "offsets of three": file_of("{" + ENTRY.replace("[0,4]", "[0,4,4]") + "}"),
    "offsets backwards": file_of("{" + ENTRY.replace("[0,4]", "[4,0]") + "}"),
    "size not of the shape": file_of("{" + entry("a", "F32", [2], [0, 4]) + "}"),
    "half a byte": file_of("{" + entry("a", "F4", [7], [0, 4]) + "}"),
    "overlap": file_of(
        "{" + entry("a", "U8", [3], [0, 3]) + "," + entry("b", "U8", [2], [2, 4]) + "}"
    ),
    "same range twice": file_of(
        "{" + entry("a", "U8", [4], [0, 4]) + "," + entry("b", "U8", [4], [0, 4]) + "}"
    ),
    "gap": file_of("{" + entry("a", "U8", [1], [0, 1]) + "," + entry("b", "U8", [2], [2, 4]) + "}"),
    "gap at the start": file_of("{" + entry("a", "U8", [3], [1, 4]) + "}"),
    "data too short": file_of("{" + ENTRY + "}", bytes(3)),
    "data too long": file_of("{" + ENTRY + "}", bytes(5)),
    "deep lists": file_of('{"a":{"x":' + "[" * 60_000),
    "deep objects": file_of('{"a":' * 20_000),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused(content: bytes) -> None:
    """A file that breaks one rule of the format raises `MalformedModel`."""
    with pytest.raises(MalformedModel):
        scanned(content)


@given(junk=st.binary(max_size=64))
def test_junk_is_refused(junk: bytes) -> None:
    """Any bytes give a layout or `MalformedModel`."""
    with contextlib.suppress(MalformedModel):
        scanned(junk)
    with contextlib.suppress(MalformedModel):
        scanned(file_of(b"{" + junk))


CONTENT = file_of(
    f'{{"__metadata__":{{"b":"c"}},{ENTRY},' + entry("b", "F4", [2, 4], [4, 8]) + "} ",
    b"12345678",
)
HEADER_STOP = len(CONTENT) - 8


@given(position=st.integers(0, len(CONTENT) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_is_seen_as_the_library_sees_it(position: int, byte: int) -> None:
    """A file with one byte changed is refused, or the library finds the same tensors in it."""
    changed = bytearray(CONTENT)
    changed[position] = byte
    with contextlib.suppress(MalformedModel):
        assert contents(bytes(changed)) == by_library(bytes(changed))


@pytest.mark.parametrize("size", range(HEADER_STOP))
def test_a_cut_header_is_truncated(size: int) -> None:
    """A file that ends in its header is truncated, partial or not."""
    for partial in (False, True):
        with pytest.raises(TruncatedModel):
            scan(reader(CONTENT[:size]), size, partial=partial)


@pytest.mark.parametrize("size", range(HEADER_STOP, len(CONTENT)))
def test_cut_data_is_malformed_unless_partial(size: int) -> None:
    """A partial file that ends in its data has all its spans."""
    with pytest.raises(MalformedModel):
        scanned(CONTENT[:size])
    partial = scan(reader(CONTENT[:size]), size, partial=True)
    assert partial == scanned(CONTENT)


def test_a_partial_file_longer_than_its_data_is_malformed() -> None:
    """Bytes past the last tensor are refused, also in a partial file."""
    with pytest.raises(MalformedModel):
        scan(reader(CONTENT + b"x"), len(CONTENT) + 1, partial=True)


def test_a_file_that_shrinks_is_truncated() -> None:
    """A header that ends before the promised size is truncated."""
    with pytest.raises(TruncatedModel):
        scan(reader(CONTENT[: HEADER_STOP - 5]), len(CONTENT))


def test_what_reading_raises_passes_through() -> None:
    """An error of the store is not taken for bad content."""

    def fail(offset: int, size: int) -> bytes:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        scan(fail, 100)


def test_a_header_that_begins_wrong_is_not_read() -> None:
    """If the ninth byte is no `{`, nothing else of the file is read."""
    reads: list[int] = []

    def counting(offset: int, size: int) -> bytes:
        reads.append(size)
        return (struct.pack("<Q", MAX_HEADER_SIZE) + bytes(size))[:size]

    with pytest.raises(MalformedModel):
        scan(counting, 1 << 30)
    assert sum(reads) == 9


def peak_of(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("junk", ["[],", "{},", "0,", '"",', '"a":{},'])
def test_junk_headers_cost_little_memory(junk: str) -> None:
    """Millions of tiny values take no more memory than a few times the header."""
    content = file_of('{"a":{"dtype":[' + junk * (4_000_000 // len(junk)))

    def refuse() -> None:
        with pytest.raises(MalformedModel):
            scanned(content)

    assert peak_of(refuse) < 4 * len(content)
