"""Promises that all codecs of tensors keep, for any numbers."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.codecs import CODECS
from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import Element, element_of
from modelfs.codecs.smallest import encode_tensor
from tests.support.element_types import ENCODERS, contents, elements, low_precision, normal
from tests.support.paths import CODECS_GOLDEN

every_form = pytest.mark.parametrize("number", ENCODERS, ids=lambda number: number.name)

KIB = 1 << 10


@every_form
@given(data=st.data(), element=elements)
def test_decode_undoes_encode(number: CodecId, data: st.DataObject, element: Element) -> None:
    """Any bytes that a codec encodes come back, as numbers of any element."""
    raw = data.draw(contents(element))
    stored = ENCODERS[number](raw, element)
    if stored is not None:
        decoded = CODECS[number].decode(stored, len(raw))
        assert type(decoded) is bytes
        assert decoded == raw


@given(data=st.data(), element=elements)
def test_the_smallest_form_comes_back(data: st.DataObject, element: Element) -> None:
    """The chosen form decodes to the content, and is the content itself or smaller."""
    raw = data.draw(contents(element))
    number, stored = encode_tensor(raw, element)
    assert CODECS[number].decode(stored, len(raw)) == raw
    assert stored is raw if number is CodecId.RAW else len(stored) <= 0.97 * len(raw)


@every_form
def test_stored_bytes_of_another_length_are_refused(number: CodecId) -> None:
    """A stored form that ends too early or too late is refused."""
    size = len((CODECS_GOLDEN / f"{number.name}.raw").read_bytes())
    stored = (CODECS_GOLDEN / f"{number.name}.stored").read_bytes()
    for cut in (*(stored[:stop] for stop in range(len(stored))), stored + b"\0"):
        with pytest.raises(ValueError, match=r"."):
            CODECS[number].decode(cut, size)


@every_form
@given(data=st.data())
def test_damaged_bytes_do_no_harm(number: CodecId, data: st.DataObject) -> None:
    """A stored form with changed bytes is refused, or decodes to as many bytes as asked for."""
    size = len((CODECS_GOLDEN / f"{number.name}.raw").read_bytes())
    stored = bytearray((CODECS_GOLDEN / f"{number.name}.stored").read_bytes())
    size += data.draw(st.sampled_from([0, 0, 0, -1, 1, 8, -size]))
    for _ in range(data.draw(st.integers(0, 3))):
        stored[data.draw(st.integers(0, min(39, len(stored) - 1)))] = data.draw(st.integers(0, 255))
    try:
        assert len(CODECS[number].decode(bytes(stored), size)) == size
    except ValueError as exc:
        assert str(exc)  # noqa: PT017 - either is right


FORMS: dict[str, tuple[CodecId, str, bytes]] = {
    "weights": (CodecId.PLANES, "F32", normal(4 * KIB, element_of("F32"), 1).tobytes()),
    "halves": (CodecId.PLANES, "F16", normal(4 * KIB, element_of("F16"), 1).tobytes()),
    "quantised": (CodecId.PLANES, "I8", normal(4 * KIB, Element(1), 1).tobytes()),
    "zeros": (CodecId.REPEAT, "F32", bytes(4 * KIB)),
    "ones, cut": (CodecId.REPEAT, "F32", np.ones(KIB, "<f4").tobytes()[:-1]),
    "rows": (CodecId.REPEAT, "BF16", normal(384, element_of("F32"), 1).tobytes() * 5),
    "rows that begin alike": (CodecId.REPEAT, "I64", (bytes(100) + bytes(range(100))) * 20),
    "mask": (CodecId.PALETTE, "BOOL", (normal(8 * KIB, Element(1), 1) > 50).tobytes()),
    "dequantised": (
        CodecId.PALETTE,
        "F32",
        (normal(4 * KIB, Element(1), 1) * np.float32(0.1)).tobytes(),
    ),
    "F32 of BF16": (
        CodecId.NARROW,
        "F32",
        (normal(4 * KIB, element_of("F32"), 1).view("<u4") & 0xFFFF0000).tobytes(),
    ),
    "F32 of F16": (CodecId.NARROW, "F32", low_precision(4 * KIB, element_of("F32"), 1)),
    "F64 of F32": (CodecId.NARROW, "F64", low_precision(4 * KIB, element_of("F64"), 1)),
    "signed": (CodecId.NARROW, "I64", (normal(4 * KIB, Element(8), 1) * 9).tobytes()),
    "text": (CodecId.PLANES, "U8", b"some text, and more of the same text, " * 9 + b"end" * 500),
    "noise": (CodecId.RAW, "F32", np.random.default_rng(1).bytes(4 * KIB)),
    "nothing": (CodecId.RAW, "F32", b""),
    "one": (CodecId.RAW, "F32", struct.pack("<f", 1)),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_kind_of_tensor_has_its_form(name: str) -> None:
    """The smallest form is that of the codec for such content."""
    number, dtype, raw = FORMS[name]
    assert encode_tensor(raw, element_of(dtype))[0] is number
