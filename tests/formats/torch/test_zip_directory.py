"""The directory of a ZIP archive, and directories that lie."""

import io
import struct
import zipfile

import pytest

from modelfs.formats.layout import PLAIN, Format
from tests.support.torch_archives import (
    WEIGHTS,
    archive,
    changed,
    content_of,
    mapping,
    pickled,
    recognised,
    records_of,
    rezipped,
    spans_of,
    tensor,
)


def test_a_comment_at_the_end() -> None:
    """An archive may end in a comment, also in one that has the mark of an end in it."""
    content = archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS})
    for comment in (b"note", b"PK\5\6" * 30, b"x" * 65535):
        assert content_of(rezipped(content, {}, comment)) == {"a": WEIGHTS}
    assert recognised(content + b"tail") == PLAIN


def test_garbage_in_front() -> None:
    """Bytes in front of an archive make it plain, though zip readers allow for them."""
    content = archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS})
    for garbage in (b"\0", b"PK\3\4", b"#!/bin/sh\n", content):
        assert recognised(garbage + content) == PLAIN


CENTRAL = b"PK\1\2"


@pytest.mark.parametrize("value", [0, 1, 23, 25, 1 << 20, 0xFFFFFFFE, 0xFFFFFFFF])
@pytest.mark.parametrize("field", [16 + 4, 16 + 8, 42], ids=["packed", "size", "offset"])
def test_a_directory_that_lies(field: int, value: int) -> None:
    """A wrong size or place of an entry makes an archive plain."""
    content = archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS})
    central, _ = records_of(content)[2]
    assert recognised(changed(content, central + field, "<I", value)) == PLAIN


@pytest.mark.parametrize("field", range(4, 22, 2))
@pytest.mark.parametrize("value", [1, 0xFFFF])
def test_an_end_that_lies(field: int, value: int) -> None:
    """A wrong number in the end of the directory makes an archive plain."""
    content = archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS})
    assert recognised(changed(content, len(content) - 22 + field, "<H", value)) == PLAIN


def wide(content: bytes) -> bytes:
    """Return an archive in which all numbers are in zip64 fields."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        infos, start = file.infolist(), file.start_dir
    directory = b""
    for info in infos:
        numbers = (info.file_size, info.compress_size, info.header_offset)
        extra = struct.pack("<2sHHH3Q", b"FB", 0, 1, 24, *numbers)
        name = info.filename.encode()
        fixed = (45, 45, info.flag_bits, 0, 0, 0, info.CRC, 0xFFFFFFFF, 0xFFFFFFFF)
        tail = (len(name), len(extra), 0, 0, 0, 0, 0xFFFFFFFF)
        directory += struct.pack("<4s6H3I5H2I", CENTRAL, *fixed, *tail) + name + extra
    count, stop = len(infos), start + len(directory)
    sizes = (44, 45, 45, 0, 0, count, count, len(directory), start)
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", *sizes)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, stop, 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return content[:start] + directory + end64 + locator + end


def test_zip64() -> None:
    """Numbers of 64 bits are read from the zip64 fields."""
    content = archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS})
    assert spans_of(wide(content)) == spans_of(content)
    big = wide(content)
    for size in range(len(big)):
        assert recognised(big[:size]) == PLAIN
    stop = len(big) - 22 - 20 - 56
    for offset in range(stop, len(big)):
        for value in (0x7F, 0xFE):
            assert recognised(changed(big, offset, "<B", big[offset] ^ value)).format in Format


def test_huge_counts() -> None:
    """An archive with too high a count of entries is refused at the first missing one."""
    content = wide(archive(pickled(mapping({"a": tensor(0, [6])})), {0: WEIGHTS}))
    at = len(content) - 22 - 20 - 56
    for count in (1 << 32, 1 << 63, (1 << 64) - 1):
        lying = changed(changed(content, at + 24, "<Q", count), at + 32, "<Q", count)
        assert recognised(lying) == PLAIN
