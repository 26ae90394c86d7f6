"""The file of an index: full maps, and its compaction."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from modelfs.errors import StoreFull
from modelfs.store.disk.directory import Directory
from modelfs.store.index import rebuild
from modelfs.store.index.index import Index
from modelfs.store.index.tables import Table
from tests.support.loop_disks import disk, free
from tests.support.small_index import put, rows_of
from tests.support.stores import run_apart


def test_a_full_map_grows(tmp_path: Path) -> None:
    """A commit that does not fit makes the map larger, as often as necessary."""
    index = Index(Directory(tmp_path), map_size=1 << 18)
    put(index, b"large", bytes(4 << 20))
    assert index.get(Table.META, b"large") == bytes(4 << 20)
    index.close()
    again = Index(Directory(tmp_path), map_size=1 << 18)
    assert again.get(Table.META, b"large") == bytes(4 << 20)
    again.close()


def filled_and_emptied(folder: Path) -> int:
    """Fill an index and delete most rows again; return the length of its file."""
    index = Index(Directory(folder))
    for delete in (False, True):
        with index.change():
            for number in range(20_000):
                if not delete:
                    index.put(Table.CHUNKS, b"%08d" % number, bytes(80))
                elif number % 100:
                    index.delete(Table.CHUNKS, b"%08d" % number)
        index.commit()
    put(index, b"a", b"1")
    index.close()
    return (folder / "data.mdb").stat().st_size


def test_an_index_that_is_mostly_free_is_compacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file becomes short, all rows stay, and commits go on."""
    monkeypatch.setattr(rebuild, "COMPACT_MIN", 1 << 20)
    before = filled_and_emptied(tmp_path)
    rows = rows_of(tmp_path)
    index = Index(Directory(tmp_path))
    index.file.compact(1 << 30)
    assert (tmp_path / "data.mdb").stat().st_size < before / 4
    put(index, b"a", b"2")
    index.file.compact(1 << 30)  # does nothing
    index.close()
    assert rows_of(tmp_path) == rows | {Table.META: [(b"a", b"2")]}


def test_the_folder_that_was_opened_is_compacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it is renamed meanwhile, another one at its path stays as it is."""
    monkeypatch.setattr(rebuild, "COMPACT_MIN", 1 << 20)
    folder, moved = tmp_path / "index", tmp_path / "moved"
    folder.mkdir()
    before = filled_and_emptied(folder)
    index = Index(Directory(folder))
    folder.rename(moved)
    shutil.copytree(moved, folder)
    index.file.compact(1 << 30)
    index.close()
    assert (moved / "data.mdb").stat().st_size < before / 4
    assert (folder / "data.mdb").stat().st_size == before


@pytest.mark.parametrize(("smallest", "room"), [(1 << 40, 1 << 30), (1 << 20, 1 << 12)])
def test_an_index_stays_as_it_is(
    tmp_path: Path, smallest: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it is small, or if there is no room, its file is not copied."""
    monkeypatch.setattr(rebuild, "COMPACT_MIN", smallest)
    before = filled_and_emptied(tmp_path)
    index = Index(Directory(tmp_path))
    index.file.compact(room)
    index.close()
    assert (tmp_path / "data.mdb").stat().st_size == before
    assert not (tmp_path / "new").exists()


COMPACT = """
import sys
from pathlib import Path
from modelfs.store.disk.directory import Directory
from modelfs.store.index import rebuild
from modelfs.store.index.index import Index
from tests.support.small_index import put
rebuild.COMPACT_MIN = 1 << 20
index = Index(Directory(Path(sys.argv[1])))
index.file.compact(1 << 30)
for number in range(100):
    put(index, b"a", b"%d" % number)
index.close()
"""


def test_a_reader_meanwhile(tmp_path: Path) -> None:
    """A process that has the index open reads the old file, until it opens the new one."""
    filled_and_emptied(tmp_path)
    index = Index(Directory(tmp_path), read_only=True)
    rows = list(index.pages(Table.CHUNKS))
    run_apart(COMPACT, tmp_path)
    assert index.get(Table.META, b"a") == b"1"
    assert list(index.pages(Table.CHUNKS)) == rows
    index.rows.reopen()
    assert index.get(Table.META, b"a") == b"99"
    assert list(index.pages(Table.CHUNKS)) == rows
    index.close()


def test_a_write_that_a_full_disk_cuts_short(tmp_path: Path) -> None:
    """A commit with room for a part of it fails for lack of room; with room it succeeds."""
    with disk(tmp_path / "image", tmp_path / "disk", 64 << 20) as path:
        (path / "index").mkdir()
        index = Index(Directory(path / "index"))
        with index.change():
            index.put(Table.META, b"large", bytes(16 << 20))
        with (path / "hog").open("wb") as hog:
            os.posix_fallocate(hog.fileno(), 0, free(path) - (150 << 10))
        with pytest.raises(StoreFull, match="cut short"):
            index.commit()
        (path / "hog").unlink()
        index.commit()
        assert index.get(Table.META, b"large") == bytes(16 << 20)
        index.close()


def test_a_disk_that_fails_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that the disk refuses for another reason keeps its error."""
    index = Index(Directory(tmp_path))

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "index: mdb_txn_commit: Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(index.environment, "transaction", fail)
        with pytest.raises(OSError, match="Input/output error"):
            index.file.write(lambda _: None)
    index.close()
