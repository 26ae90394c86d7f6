"""The staged state of a file: parts of ranges, copies, and the states that flushes carry."""

import os
from pathlib import Path

import pytest

from modelfs.store.disk.descriptors import Descriptors
from modelfs.store.disk.directory import Directory
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.files.window import Window
from modelfs.store.files.window_file import WindowFile
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.stores import WINDOW, new_file, staged_of

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


def test_a_frozen_state_is_cut_to_the_smallest_size(opened: Store) -> None:
    """Truncations during a flush cut its state, and later writes are not in it."""
    inode = new_file(opened, b"f", bytes(3 * WINDOW))
    staged = staged_of(opened, inode)
    frozen, later = staged.freeze(), staged.freeze()
    staged.flushing.remove(later)
    opened.writes.truncate(inode, WINDOW + 10)
    opened.writes.truncate(inode, 2 * WINDOW)
    opened.writes.write(inode, WINDOW + 20, b"x")
    assert (frozen.state.size, frozen.state.map_visible_to) == (WINDOW + 10, WINDOW + 10)
    assert list(frozen.state.ranges()) == [(0, WINDOW + 10)]
    assert [window.number for window in frozen.windows] == [0, 1]
    assert later.state.size == 3 * WINDOW


def test_a_recorded_flush_leaves_later_changes_dirty(opened: Store) -> None:
    """A window that was written since the freeze waits for the next flush, and others do not."""
    inode = new_file(opened, b"f", bytes(2 * WINDOW))
    staged = staged_of(opened, inode)
    frozen = staged.freeze()
    opened.writes.write(inode, WINDOW, b"x")
    assert not any(window.recorded for window in staged.windows.values())
    staged.flush_recorded(frozen)
    assert [staged.windows[number].dirty for number in (0, 1)] == [False, True]
    assert all(window.recorded for window in staged.windows.values())
    assert staged.dirty
    assert staged.generation == frozen.state.generation + 1
