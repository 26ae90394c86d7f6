"""The open files of a mount."""

import pytest
from pyfuse3 import FileHandleT

from modelfs.errors import InvalidArgument
from modelfs.fs.handles import Handles
from modelfs.store.index.tables import InodeNumber

ONE, TWO = InodeNumber(1), InodeNumber(2)


def test_handles_differ() -> None:
    """Each open has a handle of its own, and none is used again."""
    handles = Handles()
    first, second = (handles.open(ONE, writable=False) for _ in range(2))
    assert handles.close(first).inode == ONE
    third = handles.open(TWO, writable=False)
    assert len({first, second, third}) == 3
    assert [handles[handle].inode for handle in (second, third)] == [ONE, TWO]


@pytest.mark.parametrize("number", [0, 1, 99])
def test_unknown_handle(number: int) -> None:
    """A handle that is not open is refused."""
    handles = Handles()
    handles.close(handles.open(ONE, writable=True))
    with pytest.raises(InvalidArgument):
        handles[FileHandleT(number)]


def test_open_for_writing_until_the_last_writer_closes() -> None:
    """Readers do not count as writers, and each writer does."""
    handles = Handles()
    reader = handles.open(ONE, writable=False)
    assert not handles.is_open_for_writing(ONE)
    writers = [handles.open(ONE, writable=True) for _ in range(2)]
    for writer in writers:
        assert handles.is_open_for_writing(ONE)
        handles.close(writer)
    assert not handles.is_open_for_writing(ONE)
    assert not handles.is_open_for_writing(TWO)
    assert handles[reader].inode == ONE
