"""Runs of a planned read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.store.disk.descriptors import Descriptor, Descriptors, read_at
from modelfs.store.disk.directory import Directory
from modelfs.store.files.read_runs import FileRun, HoleRun, ReadRun, filled, parts


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Descriptor]:
    """A file of ten bytes."""
    (tmp_path / "file").write_bytes(b"0123456789")
    folder = Directory(tmp_path)
    yield Descriptors(folder, 0).get("file")
    folder.close()


def test_each_run_has_its_part_of_a_buffer(file: Descriptor) -> None:
    """The parts follow each other without a gap, for runs of every kind."""
    runs: list[ReadRun] = [FileRun(file, 2, 3), HoleRun(4), FileRun(file, 0, 1)]
    pairs = [(run, bytes(part)) for run, part in parts(runs, memoryview(b"abcdefgh"))]
    assert pairs == [(runs[0], b"abc"), (runs[1], b"defg"), (runs[2], b"h")]


def test_a_part_of_a_run(file: Descriptor) -> None:
    """A part is counted from the start of the run, and its bytes are from there in the file."""
    part = FileRun(file, 2, 6).part(3, 2)
    assert (part.offset, part.size) == (5, 2)
    assert read_at(part.file, part.offset, part.size) == b"56"
    part.check()  # a pack's run has nothing to check
    assert not part.check_waits


def test_new_bytes_are_zeros_until_they_are_filled() -> None:
    """The bytes are those that the function has written, and zeros behind them."""

    def fill(into: memoryview) -> None:
        assert bytes(into) == bytes(5)
        into[:2] = b"ab"

    assert filled(5, fill) == b"ab\0\0\0"
    assert filled(0, lambda into: None) == b""
