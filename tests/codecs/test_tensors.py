"""Promises that all codecs of tensors keep, for any numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.codecs import CODECS
from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import Element
from tests.support.element_types import ENCODERS, contents, elements
from tests.support.paths import CODECS_GOLDEN

every_form = pytest.mark.parametrize("number", ENCODERS, ids=lambda number: number.name)


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
