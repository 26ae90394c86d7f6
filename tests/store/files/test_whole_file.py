"""One whole file: its users, and its changes since the last look."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.store.disk.descriptors import Descriptors
from modelfs.store.disk.directory import Directory
from modelfs.store.files.clock import STEP_NS
from modelfs.store.files.whole_file import WholeFile
from modelfs.store.files.window_file import WindowFile
from modelfs.store.index.ranges import RangeSet

Kept = dict[WindowFile, None]


@pytest.fixture
def kept() -> Kept:
    return {}


@pytest.fixture
def whole(tmp_path: Path, kept: Kept) -> WholeFile:
    folder = Directory(tmp_path)
    reading, writing = Descriptors(folder, os.O_RDONLY), Descriptors(folder, os.O_RDWR)
    whole = WholeFile(reading, writing, "7-w-1", kept, 1)
    whole.create(1)
    return whole


@pytest.fixture
def fd(whole: WholeFile, tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / whole.name, os.O_RDWR)
    yield fd
    os.close(fd)


def settle() -> None:
    """Wait until the clock of files has another time."""
    time.sleep(3 * STEP_NS / 1e9)


def test_a_look_finds_changes(whole: WholeFile, fd: int) -> None:
    """A file that has not changed since the last look is not read again."""
    settle()
    assert whole.observe() is not None
    assert whole.observe() is None
    os.pwrite(fd, b"data", 0)
    settle()
    seen = whole.observe()
    assert seen is not None
    assert (seen.size, list(seen.data)) == (4, [(0, 4)])
    assert whole.observe() is None


def test_a_recent_change_counts_twice(whole: WholeFile, fd: int) -> None:
    """A change within a step of the clock may have the same time as the one before."""
    os.pwrite(fd, b"data", 0)
    assert whole.observe() is not None
    assert whole.observe() is not None


def test_an_open_for_writing_counts_as_a_change(whole: WholeFile) -> None:
    """A look after it cannot miss a write in the same step of the clock."""
    settle()
    assert whole.prove_unwritten()
    whole.observe()
    assert whole.observe() is None
    whole.opened(writable=True)
    assert whole.observe() is not None
    whole.closed(writable=True)


def test_a_proof(whole: WholeFile, kept: Kept, tmp_path: Path) -> None:
    """It fails while the file is open for writing, here or anywhere, and then lasts."""
    whole.opened(writable=True)
    assert not whole.prove_unwritten()
    whole.closed(writable=True)
    with (tmp_path / whole.name).open("r+b"):
        assert not whole.prove_unwritten()
    assert list(kept) == [whole]
    assert whole.prove_unwritten()
    assert not kept
    with (tmp_path / whole.name).open("rb"):
        assert (whole.prove_unwritten(), whole.is_unused()) == (True, False)
    assert whole.is_unused()


def test_own_writes_leave_no_descriptor(whole: WholeFile) -> None:
    """One for writing would refuse every lease."""
    file = whole.writable_descriptor()
    failures = whole.begin_write(file)
    os.pwrite(file.fd, b"own", 0)
    assert not whole.prove_unwritten()
    whole.end_write(0, 3, 3, failures)
    del file
    assert whole.prove_unwritten()


def test_rows_of_a_store_that_was_not_closed(whole: WholeFile) -> None:
    """One row without a checksum is enough for a doubt."""
    whole.prove_unwritten()
    whole.resume(RangeSet([(0, 4)]), RangeSet(), is_exact=True)
    assert whole.is_unused()
    whole.resume(RangeSet(), RangeSet([(4, 8)]), is_exact=False)
    assert not whole.is_unused()
    assert list(whole.lost()) == [(4, 8)]
