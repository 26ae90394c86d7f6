"""A file's bytes as the scans of formats read them, and bytes of protobuf messages."""

from typing import Final

from modelfs.formats.layout import ReadAt

LEN: Final = 2  # the wire type of strings and messages


def reader(content: bytes) -> ReadAt:
    return lambda offset, size: content[offset : offset + size]


def varint(number: int) -> bytes:
    groups = [number & 0x7F]
    while number := number >> 7:
        groups[-1] |= 0x80
        groups.append(number & 0x7F)
    return bytes(groups)


def field(number: int, wire: int, value: bytes) -> bytes:
    size = varint(len(value)) if wire == LEN else b""
    return varint(number << 3 | wire) + size + value


def message(number: int, *parts: bytes) -> bytes:
    return field(number, LEN, b"".join(parts))
