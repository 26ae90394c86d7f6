"""The width of an element of each dtype, and the names of dtypes in ONNX and torch."""

from collections.abc import Iterable
from typing import Final

# Bits per element of every dtype of safetensors 0.8, by the name in the header ("Dtype" in
# safetensors/src/tensor.rs). Those of 4 and 6 bits are packed without padding.
SAFETENSORS_BITS: Final[dict[str, int]] = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

# Bits per element of every dtype that a span can have. Those of ONNX alone have like names.
BITS: Final[dict[str, int]] = SAFETENSORS_BITS | {
    "U2": 2,
    "I2": 2,
    "U4": 4,
    "I4": 4,
    "C128": 128,
}

# TensorProto.DataType of onnx.proto (IR version 14) to our names. UNDEFINED (0) and STRING (8)
# have no width: payloads of such tensors are plain bytes.
ONNX_DTYPES: Final[dict[int, str]] = {
    1: "F32",
    2: "U8",
    3: "I8",
    4: "U16",
    5: "I16",
    6: "I32",
    7: "I64",
    9: "BOOL",
    10: "F16",
    11: "F64",
    12: "U32",
    13: "U64",
    14: "C64",
    15: "C128",
    16: "BF16",
    17: "F8_E4M3",
    18: "F8_E4M3FNUZ",
    19: "F8_E5M2",
    20: "F8_E5M2FNUZ",
    21: "U4",
    22: "I4",
    23: "F4",
    24: "F8_E8M0",
    25: "U2",
    26: "I2",
    27: "F6_E2M3",
    28: "F6_E3M2",
}

# The storage classes by which torch.save names dtypes ("_dtype_to_storage_type_map" in
# torch/storage.py), and the dtypes without a class, which tensors of an `UntypedStorage` name
# themselves ("_new_dtypes"). A quantized dtype is that of its integers. Dtypes with several
# elements to a byte are missing: torch counts their bytes, and has no shape in elements.
TORCH_DTYPES: Final[dict[str, str]] = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexDoubleStorage": "C128",
    "ComplexFloatStorage": "C64",
    "QInt8Storage": "I8",
    "QUInt8Storage": "U8",
    "QInt32Storage": "I32",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
}

# Past any file; everything else counts in signed 64-bit numbers.
MAX_BITS: Final = 2**63


def tensor_bits(dtype: str, shape: Iterable[int]) -> int | None:
    """Return the bits of a tensor, or None where the shape is negative or absurdly large.

    A shape whose leading dimensions alone are absurd is refused although a later one is 0, as
    safetensors does; so the product never grows into a slow, huge integer.
    """
    bits = BITS[dtype]
    for dim in shape:
        bits *= dim
        if not 0 <= bits < MAX_BITS:
            return None
    return bits


def tensor_size(dtype: str, shape: Iterable[int]) -> int | None:
    """Return the bytes of a tensor, its last one padded, or None as `tensor_bits` does."""
    bits = tensor_bits(dtype, shape)
    return None if bits is None else (bits + 7) // 8
