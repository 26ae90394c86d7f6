"""Widths of dtypes."""

import re

import numpy as np
import pytest
import safetensors
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from modelfs.formats.dtypes import (
    BITS,
    ONNX_DTYPES,
    SAFETENSORS_BITS,
    tensor_bits,
    tensor_size,
)

WITHOUT_WIDTH = {"UNDEFINED", "STRING"}


def test_safetensors_dtypes_are_those_of_the_library() -> None:
    """The table has exactly the names in the library's error message."""
    junk = save({"a": np.zeros(1, np.uint8)}).replace(b'"U8"', b'"??"')
    with pytest.raises(safetensors.SafetensorError) as refusal:
        safetensors.deserialize(junk)  # type: ignore[no-untyped-call]
    _, _, expected = str(refusal.value).partition("expected one of")
    assert set(re.findall(r"`(\w+)`", expected)) == set(SAFETENSORS_BITS)


def test_onnx_dtypes_are_those_of_the_library() -> None:
    """Every data type of fixed width that the library knows has a name with a width."""
    expected = {
        number for name, number in TensorProto.DataType.items() if name not in WITHOUT_WIDTH
    }
    assert set(ONNX_DTYPES) == expected
    assert set(ONNX_DTYPES.values()) <= set(BITS)


@pytest.mark.parametrize("data_type", ONNX_DTYPES)
def test_onnx_tensors_have_the_size_the_library_gives_them(data_type: int) -> None:
    """The size of 15 elements is that of the library's raw data, also where bytes are shared."""
    array = np.zeros((3, 5), helper.tensor_dtype_to_np_dtype(data_type))
    tensor = numpy_helper.from_array(array)
    assert tensor.data_type == data_type
    assert tensor_size(ONNX_DTYPES[data_type], (3, 5)) == len(tensor.raw_data)


@pytest.mark.parametrize(
    ("dtype", "shape", "bits"),
    [
        ("F32", (), 32),
        ("F32", (0, 7), 0),
        ("F6_E2M3", (3,), 18),
        ("C128", (2, 2), 512),
        ("U8", (2**60 - 1,), 2**63 - 8),
    ],
)
def test_bits_are_width_times_elements(dtype: str, shape: tuple[int, ...], bits: int) -> None:
    """The bits of a tensor are its elements' width times their number."""
    assert tensor_bits(dtype, shape) == bits


@pytest.mark.parametrize("shape", [(-1,), (2**60,), (2**40, 2**40, 0), (-1, -1)])
def test_absurd_shapes_have_no_size(shape: tuple[int, ...]) -> None:
    """A negative dimension or a product past 2**63 bits gives None, whatever follows it."""
    assert tensor_bits("U8", shape) is None
    assert tensor_size("U8", shape) is None


def test_a_last_byte_is_padded() -> None:
    """Three elements of four bits take two bytes."""
    assert tensor_size("U4", (3,)) == 2
