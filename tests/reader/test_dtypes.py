"""Each dtype of tensors has its numpy dtype, and arrays of no other one hold its elements."""

import sys
from typing import Final

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.formats.dtypes import BITS
from modelfs.reader import dtypes
from modelfs.reader.dtypes import ML_DTYPES, NUMPY, fits, numpy_dtype

# The number 1 in each dtype, as files have it: little-endian. For the 8-bit floats see "FP8 Formats
# for Deep Learning", arXiv:2209.05433, table 1, and "8-bit Numerical Formats for Deep Neural
# Networks", arXiv:2206.02915, section 3, for the biases of the FNUZ ones; E8M0 is that of OCP MX.
ONES: Final = {
    "BOOL": "01",
    "U8": "01",
    "I8": "01",
    "U16": "0100",
    "I16": "0100",
    "F16": "003c",
    "BF16": "803f",
    "U32": "01000000",
    "I32": "01000000",
    "F32": "0000803f",
    "U64": "0100000000000000",
    "I64": "0100000000000000",
    "F64": "000000000000f03f",
    "C64": "0000803f00000000",
    "C128": "000000000000f03f0000000000000000",
    "F8_E4M3": "38",
    "F8_E4M3FNUZ": "40",
    "F8_E5M2": "3c",
    "F8_E5M2FNUZ": "40",
    "F8_E8M0": "7f",
}
# Byte 255 is no number where NaN is all ones.
HIGHEST: Final = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0}
WHOLE: Final = sorted(dtype for dtype, bits in BITS.items() if bits >= 8)
PACKED: Final = sorted(BITS.keys() - {*WHOLE})
RAW_BITS: Final = ("u1", "<u2", ">u4", "<u8", "V1", "V16")


def test_every_dtype_of_whole_bytes_is_known() -> None:
    """The tables have the dtypes of all formats whose elements are bytes, each once."""
    assert sorted([*NUMPY, *ML_DTYPES]) == WHOLE == sorted(ONES)


@pytest.mark.parametrize("dtype", WHOLE)
def test_bits_mean_the_same(dtype: str) -> None:
    """The bits of 1 are 1 in numpy, and an element takes as many bytes as in the file."""
    found = numpy_dtype(dtype)
    assert found.itemsize * 8 == BITS[dtype]
    (one,) = np.frombuffer(bytes.fromhex(ONES[dtype]), found)
    assert one == 1


@pytest.mark.parametrize("dtype", HIGHEST)
def test_the_small_floats_with_and_without_infinity(dtype: str) -> None:
    """The highest number is that of the format of the same name."""
    numbers = np.frombuffer(bytes(range(256)), numpy_dtype(dtype)).astype(np.float32)
    assert np.max(numbers[np.isfinite(numbers)]) == HIGHEST[dtype]
    assert np.isinf(numbers).any() == (dtype == "F8_E5M2")


@pytest.mark.parametrize("dtype", PACKED)
def test_several_elements_in_a_byte(dtype: str) -> None:
    """Where a byte has several elements, numpy has no dtype, and the error names `bytes`."""
    with pytest.raises(TypeError, match=rf"numpy has no {dtype}: several .*; use bytes\(\)"):
        numpy_dtype(dtype)
    assert not fits(np.dtype("i1"), dtype)


@given(st.text() | st.sampled_from(["<f4", "f4", "float32", "O", "object", "S4", "U8 ", "f32"]))
def test_a_name_is_never_numpys_own(name: str) -> None:
    """A name that is none of a tensor's dtypes is refused, also if numpy would understand it."""
    if name not in WHOLE:
        with pytest.raises(TypeError, match="numpy has no"):
            numpy_dtype(name)
        assert not fits(np.dtype("<f4"), name)


def test_without_the_optional_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ml_dtypes its dtypes are refused by name; the others, and raw bits, are as before."""
    monkeypatch.setattr(dtypes, "ml_dtypes", None)
    for dtype in ML_DTYPES:
        with pytest.raises(TypeError, match=f"no {dtype} without the package ml_dtypes"):
            numpy_dtype(dtype)
        assert not fits(np.dtype("<f2"), dtype)
        assert fits(np.dtype("u1"), dtype)
    assert numpy_dtype("F32") == np.float32


@pytest.mark.parametrize("dtype", [*WHOLE, *PACKED])
def test_raw_bits_fit(dtype: str) -> None:
    """Unsigned integers of any size and byte order, and voids, may get the bits of any tensor."""
    assert all(fits(np.dtype(bits), dtype) for bits in RAW_BITS)


@pytest.mark.parametrize("dtype", WHOLE)
def test_elements_of_the_same_dtype_fit(dtype: str) -> None:
    """Of all dtypes that are no raw bits, a tensor fits into its own one."""
    there = {name: numpy_dtype(name) for name in WHOLE if not name.startswith("U")}
    fitting = [name for name, found in there.items() if fits(found, dtype)]
    assert fitting == ([dtype] if dtype in there else [])


@pytest.mark.parametrize(
    "other",
    [
        np.dtype("<f4").newbyteorder(">"),
        np.dtype("<i4"),
        np.dtype("S4"),
        np.dtype("O"),
        np.dtype("M8[s]"),
        np.dtype(ml_dtypes.uint4),
        np.dtype(ml_dtypes.int4),
    ],
    ids=str,
)
def test_other_elements_do_not_fit(other: np.dtype[np.generic]) -> None:
    """Numbers in another order of bytes, of another kind, and objects are no place for floats."""
    assert not fits(other, "F32")


def test_the_native_order_is_the_order_of_files() -> None:
    """On a little-endian machine, a plain array of `numpy.float32` fits a tensor of F32."""
    assert fits(np.dtype(np.float32), "F32") == (sys.byteorder == "little")
