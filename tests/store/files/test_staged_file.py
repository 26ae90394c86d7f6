"""The staged state of a file: windows, their ranges and stamps, and copies."""

import os
from pathlib import Path

import pytest

from modelfs.store.disk.descriptors import Descriptors
from modelfs.store.disk.directory import Directory
from modelfs.store.files.staged_file import StagedFile, Stamp, Window
from modelfs.store.files.window_file import WindowFile
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.stores import WINDOW, new_file, noise, staged_of

pytestmark = pytest.mark.usefixtures("windows")


@pytest.mark.parametrize("count", [2, 50])
def test_parts_are_found_among_few_and_many_windows(opened: Store, count: int) -> None:
    """Staged parts of a range are found, with more windows than the range has, or fewer."""
    inode = new_file(opened, b"f")
    for number in range(0, 2 * count, 2):
        opened.writes.write(inode, number * WINDOW + 10, b"x")
    staged = staged_of(opened, inode)
    starts = [low for _, low, _ in staged.within(WINDOW, 6 * WINDOW)]
    assert starts == [number * WINDOW + 10 for number in range(2, min(6, 2 * count), 2)]
    everything = list(staged.within(0, 1 << 60))
    assert len(everything) == count


def test_a_full_window_says_so(opened: Store) -> None:
    """A window is full when all its bytes are staged."""
    inode = new_file(opened, b"f", noise(WINDOW - 1))
    window = staged_of(opened, inode).windows[0]
    assert not window.full
    opened.writes.write(inode, WINDOW - 1, b"x")
    assert window.full


def test_stamps_are_not_used_twice(opened: Store) -> None:
    """No two states of a file's windows have the same stamp."""
    inode = new_file(opened, b"f")
    seen: list[Stamp] = []
    for _ in range(3):
        for _ in range(3):
            opened.writes.write(inode, 0, b"x")
            seen.append(staged_of(opened, inode).windows[0].stamp)
        opened.writes.truncate(inode, 0)
    assert len(set(seen)) == len(seen)


def test_a_copy_is_not_changed_by_writes(tmp_path: Path) -> None:
    """A copy of the staged state keeps its ranges when the original changes."""
    file = WindowFile(Descriptors(Directory(tmp_path), os.O_RDWR), "7-0-1", {})
    window = Window(0, 1, file, RangeSet([(0, 10)]))
    staged = StagedFile(InodeNumber(7), 10, 0, 0, size_floor=0, windows={0: window})
    copy = staged.copy()
    window.ranges.add(10, 20)
    window.version += 1
    staged.windows[1] = Window(1, 2, file)
    assert list(copy.ranges()) == [(0, 10)]
    assert copy.windows[0].version == 0
