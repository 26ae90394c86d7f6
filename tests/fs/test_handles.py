"""What the kernel holds on to."""

import pytest
from pyfuse3 import FileHandleT

from modelfs.errors import InvalidArgument
from modelfs.fs.handles import Handles
from modelfs.store.index.tables import InodeNumber

ONE, TWO = InodeNumber(1), InodeNumber(2)


def test_forgotten_after_as_many_lookups() -> None:
    """An inode is known until every lookup of it was taken back."""
    handles = Handles()
    for _ in range(3):
        handles.remember(ONE)
    assert not handles.forget(ONE, 2)
    assert handles.known(ONE)
    assert handles.forget(ONE, 1)
    assert not handles.known(ONE)


def test_lookups_are_counted_by_inode() -> None:
    """Forgetting one inode leaves the others known."""
    handles = Handles()
    handles.remember(ONE)
    handles.remember(TWO)
    assert handles.forget(TWO, 1)
    assert handles.known(ONE)


def test_forgetting_more_than_was_known() -> None:
    """A forget of lookups that were never counted leaves nothing behind."""
    handles = Handles()
    assert handles.forget(ONE, 5)
    handles.remember(ONE)
    assert handles.forget(ONE, 1)


def test_handles_differ() -> None:
    """Each open has a handle of its own, and none is used again."""
    handles = Handles()
    first, second = (handles.open(ONE, writable=False) for _ in range(2))
    assert handles.close(first).inode == ONE
    third = handles.open(TWO, writable=False)
    assert len({first, second, third}) == 3
    assert [handles[each].inode for each in (second, third)] == [ONE, TWO]


@pytest.mark.parametrize("number", [0, 1, 99])
def test_unknown_handle(number: int) -> None:
    """A handle that is not open is refused."""
    handles = Handles()
    handles.close(handles.open(ONE, writable=True))
    with pytest.raises(InvalidArgument):
        handles[FileHandleT(number)]


def test_being_written_until_the_last_writer_closes() -> None:
    """Readers do not count, and each writer does."""
    handles = Handles()
    reader = handles.open(ONE, writable=False)
    assert not handles.being_written(ONE)
    writers = [handles.open(ONE, writable=True) for _ in range(2)]
    for writer in writers:
        assert handles.being_written(ONE)
        handles.close(writer)
    assert not handles.being_written(ONE)
    assert not handles.being_written(TWO)
    assert handles[reader].inode == ONE
