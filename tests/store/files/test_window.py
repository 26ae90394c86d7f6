"""A window of staged bytes: when it is full, its stamps, and the names of its files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.store.files.window import WHOLE, Stamp, window_name, window_of
from modelfs.store.store import Store
from tests.support.stores import WINDOW, new_file, noise, staged_of

pytestmark = pytest.mark.usefixtures("windows")
NUMBERS = st.integers(0, (1 << 64) - 1)


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


@given(inode=NUMBERS, number=NUMBERS, generation=NUMBERS)
def test_a_staging_file_is_known_by_its_name(inode: int, number: int, generation: int) -> None:
    """The name of a staging file has the inode and the number of the window, if it has one."""
    name = window_name(inode, number, generation)
    assert window_of(name) == (inode, 0 if generation & WHOLE else number)


@pytest.mark.parametrize(
    "name", ["", "1-2", "1-2-3-4", "01-2-3", "1-2-3.tmp", "A-1-1", "1-1-", "1" * 17 + "-1-1"]
)
def test_other_files_are_of_no_window(name: str) -> None:
    """A name that `window_name` does not make is of no window."""
    assert window_of(name) is None
