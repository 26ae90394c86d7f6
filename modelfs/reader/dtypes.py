"""The dtypes of numpy for those of tensors."""

from typing import Any, Final

import numpy as np

# Here, not at the first use: a process that is forked while one of its threads imports a module can
# never import that module.
try:
    import ml_dtypes
except ImportError:  # an optional package
    ml_dtypes = None  # type: ignore[assignment]

# All of them little-endian, as files have them.
NUMPY: Final = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
    "C64": "<c8",
    "C128": "<c16",
}
# Of the package ml_dtypes.
ML_DTYPES: Final = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}


def fits(array: np.dtype[Any], dtype: str) -> bool:
    """Return whether elements of numpy's dtype can be those of a tensor, or raw bits.

    Unsigned integers of any size and `numpy.void` are raw bits.
    """
    if np.issubdtype(array, np.unsignedinteger) or array.type is np.void:
        return True
    try:
        return array == numpy_dtype(dtype)
    except TypeError:
        return False


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """Return numpy's dtype.

    Raises:
        TypeError: numpy has no such dtype, or only with the package ml_dtypes.
    """
    if dtype in NUMPY:
        return np.dtype(NUMPY[dtype])
    if dtype not in ML_DTYPES:
        raise TypeError(f"numpy has no {dtype}: several elements are in a byte; use bytes()")
    if ml_dtypes is None:
        raise TypeError(f"numpy has no {dtype} without the package ml_dtypes")
    scalar: type[Any] = getattr(ml_dtypes, ML_DTYPES[dtype])
    extended: np.dtype[Any] = np.dtype(scalar)
    return extended
