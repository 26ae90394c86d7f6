"""Writes and truncations: staged bytes, holes, largest sizes and cuts."""

import pytest

from modelfs.errors import FileTooLarge
from modelfs.store.index.records import SIZE_MAX
from modelfs.store.store import Store
from tests.support.run_jobs import ingest_file
from tests.support.stores import CHUNK, WINDOW, content_of, new_file, noise, stored_file

pytestmark = pytest.mark.usefixtures("windows")


def test_a_write_is_read_at_once(opened: Store) -> None:
    """Staged bytes are read as written, across windows and with holes between."""
    inode = new_file(opened, b"f")
    opened.writes.write(inode, WINDOW - 5, noise(10))
    opened.writes.write(inode, 3 * WINDOW, b"end")
    content = bytes(WINDOW - 5) + noise(10)
    assert content_of(opened, inode) == content.ljust(3 * WINDOW, b"\0") + b"end"


def test_huge_offsets_cost_nothing(opened: Store) -> None:
    """A byte at the end of the largest file takes one window and is read back."""
    inode = new_file(opened, b"f")
    opened.writes.write(inode, SIZE_MAX - 1, b"x")
    assert opened.contents.node(inode).size == SIZE_MAX
    assert opened.contents.read(inode, SIZE_MAX - 2, 10) == b"\0x"
    ingest_file(opened, inode)
    assert opened.contents.read(inode, SIZE_MAX - 2, 10) == b"\0x"
    opened.writes.truncate(inode, 0)


def test_files_have_a_largest_size(opened: Store) -> None:
    """Writes and truncations past the kernel's limit are refused and change nothing."""
    inode = new_file(opened, b"f", b"x")
    with pytest.raises(FileTooLarge):
        opened.writes.write(inode, SIZE_MAX, b"y")
    with pytest.raises(FileTooLarge):
        opened.writes.truncate(inode, SIZE_MAX + 1)
    assert content_of(opened, inode) == b"x"


@pytest.mark.parametrize("size", [0, 1, CHUNK, WINDOW, WINDOW + 1])
def test_truncated_bytes_do_not_come_back(opened: Store, size: int) -> None:
    """A file made shorter and then longer has zeros behind the cut, ingested or not."""
    data = noise(4 * CHUNK)
    for inode in (new_file(opened, b"staged", data), stored_file(opened, b"stored", data)):
        opened.writes.truncate(inode, size)
        opened.writes.truncate(inode, len(data))
        assert content_of(opened, inode) == data[:size].ljust(len(data), b"\0")
        ingest_file(opened, inode)
        assert content_of(opened, inode) == data[:size].ljust(len(data), b"\0")
