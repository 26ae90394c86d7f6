"""The data file of an LMDB environment: blocks ahead of their use, and its length."""

from pathlib import Path

from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from modelfs.store.index.pages.data_file import (
    AHEAD,
    AHEAD_BEHIND,
    AHEAD_STEP,
    DataFile,
)
from modelfs.store.index.tables import Table
from tests.support.small_index import put


def blocks(folder: Path) -> int:
    return (folder / "data.mdb").stat().st_blocks * 512


def test_free_pages_count_as_room_for_deletes(tmp_path: Path) -> None:
    """After many deletes there is space inside the file, and half as much behind it."""
    index = Index(Directory(tmp_path))
    put(index, b"a", b"1")
    assert blocks(tmp_path) >= AHEAD
    for number in range(3000):
        with index.change():
            index.put(Table.META, b"%d" % number, bytes(1000))
    index.commit()
    full = (tmp_path / "data.mdb").stat().st_size
    assert full > AHEAD // 2
    assert blocks(tmp_path) >= full + AHEAD // 2
    with index.change():
        for number in range(3000):
            index.delete(Table.META, b"%d" % number)
    index.commit()
    index.close()
    index = Index(Directory(tmp_path))
    put(index, b"a", b"2")
    size = (tmp_path / "data.mdb").stat().st_size
    assert AHEAD_BEHIND <= blocks(tmp_path) - size < AHEAD
    index.close()


def test_there_is_always_room_behind(index: Index, tmp_path: Path) -> None:
    """Deletes do not depend on free pages that a reader's snapshot blocks."""
    for number in range(20):
        with index.change():
            for key in range(number * 50, number * 50 + 50):
                index.put(Table.META, b"%d" % key, bytes(1000))
                index.delete(Table.META, b"%d" % (key - 200))
        index.commit()
        size = (tmp_path / "data.mdb").stat().st_size
        assert blocks(tmp_path) - size >= AHEAD_BEHIND


def test_a_file_becomes_longer_and_never_shorter(tmp_path: Path) -> None:
    """`lengthen` makes a file as long as the pages in use, and allocates blocks behind them."""
    file = DataFile(Directory(tmp_path))
    file.path.write_bytes(b"rows")
    file.lengthen(8192, free=0)
    assert file.size == 8192
    assert file.path.read_bytes()[:5] == b"rows\0"
    assert blocks(tmp_path) >= 8192 + AHEAD
    file.lengthen(4096, free=0)
    assert file.size == 8192


def test_blocks_are_allocated_in_steps(tmp_path: Path) -> None:
    """Blocks are needed when less than `AHEAD_BEHIND` is left behind the last page."""
    file = DataFile(Directory(tmp_path))
    file.path.write_bytes(bytes(4096))
    assert file.needs_blocks(4096)
    file.lengthen(4096, free=AHEAD)
    assert blocks(tmp_path) >= 4096 + AHEAD_BEHIND + AHEAD_STEP
    assert not file.needs_blocks(4096)
    assert not file.needs_blocks(4096 + AHEAD_STEP)
    assert file.needs_blocks(4096 + AHEAD_STEP + 1)


def test_extending_keeps_what_a_writer_wrote_meanwhile(tmp_path: Path) -> None:
    """A reader that makes a file longer cuts nothing off, though its length was an older one."""
    file = DataFile(Directory(tmp_path))
    file.path.write_bytes(b"x" * 3 * 4096)
    file.extend(4096, 2 * 4096)
    assert file.path.read_bytes() == b"x" * 3 * 4096
    file.extend(2 * 4096, 5 * 4096)
    assert file.path.read_bytes() == b"x" * 3 * 4096 + bytes(2 * 4096)
