"""Errors of reads, which name the file and keep the cause."""

import errno
from pathlib import Path
from typing import NoReturn

import pytest

from modelfs.errors import CorruptChunk, LostBytes
from modelfs.reader.connection import Connection
from modelfs.reader.file_reader import FileReader
from modelfs.store.index.tables import InodeNumber


def failing_reader(error: Exception, monkeypatch: pytest.MonkeyPatch) -> FileReader:
    def fail(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(Connection, "read", fail)
    monkeypatch.setattr(Connection, "read_into", fail)
    return FileReader(Connection(Path("/none")), "folder/file", InodeNumber(2))


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_lost_bytes_keep_their_error_number(error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that was full and one that is broken are different errors, with the file's name."""
    reader = failing_reader(LostBytes("bytes were lost", error), monkeypatch)
    for read in (lambda: reader.read(0, 1), lambda: reader.read_into(0, memoryview(bytearray(1)))):
        with pytest.raises(LostBytes, match="folder/file: bytes were lost") as raised:
            read()
        assert raised.value.errno == error


def test_a_damaged_chunk_keeps_its_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file, the chunk, and the damaged chunk from which that derives."""
    reader = failing_reader(CorruptChunk(7, "damaged", 3), monkeypatch)
    with pytest.raises(CorruptChunk, match="chunk 7: damaged, in folder/file") as raised:
        reader.read(0, 1)
    assert (raised.value.chunk, raised.value.base) == (7, 3)
