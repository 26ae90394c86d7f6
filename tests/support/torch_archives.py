"""Archives like those of torch.save, made without torch."""

import io
import struct
import zipfile
from collections.abc import Iterable, Mapping
from math import prod

from modelfs.formats.layout import Format, Layout, TensorSpan
from modelfs.formats.sniff import recognise
from tests.support.file_bytes import reader

STOP = b"."
# The storage class of each dtype in torch.save.
KINDS = {
    "F32": "FloatStorage",
    "F64": "DoubleStorage",
    "BF16": "BFloat16Storage",
    "U8": "ByteStorage",
    "I64": "LongStorage",
}


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def called(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def row(values: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def storage(key: int | str, kind: str = "FloatStorage", count: int = 0) -> bytes:
    parts = (text("storage"), called("torch", kind), text(str(key)), text("cpu"), integer(count))
    return b"(" + b"".join(parts) + b"tQ"


def contiguous(size: Iterable[int]) -> list[int]:
    size = [*size]
    return [prod(size[dim + 1 :]) for dim in range(len(size))]


def tensor(
    key: int | str,
    size: Iterable[int],
    stride: Iterable[int] | None = None,
    *,
    kind: str = "FloatStorage",
    offset: int = 0,
) -> bytes:
    """Return the pickled form of a tensor."""
    size = [*size]
    stride = contiguous(size) if stride is None else stride
    parts = (
        *(storage(key, kind, prod(size)), integer(offset), row(size), row(stride), b"\x89"),
        *(called("collections", "OrderedDict"), b")R"),
    )
    return called("torch._utils", "_rebuild_tensor_v2") + b"(" + b"".join(parts) + b"tR"


def mapping(items: Mapping[str | int, bytes], batch: int = 1000) -> bytes:
    """Return the pickled form of a dict, with some items at a time."""
    pairs = [
        (text(key) if isinstance(key, str) else integer(key)) + value
        for key, value in items.items()
    ]
    batches = (pairs[at : at + batch] for at in range(0, len(pairs), batch))
    return b"}" + b"".join(b"(" + b"".join(each) + b"u" for each in batches)


def listed(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def pickled(value: bytes) -> bytes:
    return b"\x80\x02" + value + STOP


def archive(
    pickle: bytes,
    storages: Mapping[int, bytes],
    others: Mapping[str, bytes] | None = None,
    *,
    top: str = "archive",
    aligned: int = 64,
) -> bytes:
    """Return an archive of these records, in torch's layout."""
    others = {"byteorder": b"little"} if others is None else others
    records = {"data.pkl": pickle, **others}
    records |= {f"data/{key}": data for key, data in storages.items()} | {"version": b"3\n"}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in records.items():
            info = zipfile.ZipInfo(f"{top}/{name}")
            padding = -(buffer.tell() + 30 + len(info.filename) + 4) % aligned
            info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
            file.writestr(info, data)
    return buffer.getvalue()


def saved(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """Return the archive of torch.save for a dict of names to dtype, shape and content."""
    state: dict[str | int, bytes] = {
        name: tensor(key, shape, kind=KINDS[dtype])
        for key, (name, (dtype, shape, _)) in enumerate(tensors.items())
    }
    return archive(
        pickled(mapping(state)), {key: data for key, (*_, data) in enumerate(tensors.values())}
    )


# -- what is recognised

WEIGHTS = bytes(range(24))


def recognised(content: bytes) -> Layout:
    return recognise(reader(content), len(content))


def spans_of(content: bytes) -> dict[str, TensorSpan]:
    layout = recognised(content)
    assert layout.format is Format.TORCH
    return {span.name: span for span in layout.spans}


def content_of(content: bytes) -> dict[str, bytes]:
    return {name: content[span.start : span.stop] for name, span in spans_of(content).items()}


def shapes(value: bytes, *storages: bytes) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return name, dtype and shape of what an archive of that value has."""
    found = spans_of(archive(pickled(value), dict(enumerate(storages))))
    return {name: (span.dtype, span.shape) for name, span in found.items()}


def rezipped(content: bytes, add: dict[str, bytes], comment: bytes = b"") -> bytes:
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as file:
        file.comment = comment
        for name, data in add.items():
            file.writestr(name, data)
    return buffer.getvalue()


def records_of(content: bytes) -> list[tuple[int, int]]:
    """Return the offsets of each entry's record in the directory and of its local header."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        at, found = file.start_dir, []
        for info in file.infolist():
            found.append((at, info.header_offset))
            at += 46 + len(info.filename) + len(info.extra) + len(info.comment)
    return found


def changed(content: bytes, offset: int, layout: str, value: int) -> bytes:
    data = bytearray(content)
    struct.pack_into(layout, data, offset, value)
    return bytes(data)
