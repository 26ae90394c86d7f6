"""A new data file in the place of an old one."""

import os
import shutil
import struct
from pathlib import Path

import pytest

from modelfs.errors import IrregularFile
from modelfs.store.directory import Directory
from modelfs.store.index import rebuild
from modelfs.store.index.index import Index
from modelfs.store.index.rebuild import replace_data_file, write_new
from modelfs.store.index.row_checksum import with_checksum
from modelfs.store.index.tables import Table
from tests.support.small_index import put
from tests.support.stores import run_apart

ROWS = {
    Table.META: [(b"a", b"2"), (b"b", bytes(9000))],
    Table.CHUNKS: [(b"%08d" % number, bytes(80)) for number in range(1000)],
}
STORED = {
    table: [(key, with_checksum(table, key, value)) for key, value in rows]
    for table, rows in ROWS.items()
}


def rows_of(folder: Path) -> dict[Table, list[tuple[bytes, bytes]]]:
    """Return the rows of an index that are in tables with rows."""
    index = Index(Directory(folder))
    rows = {table: list(index.pages(table)) for table in Table}
    index.close()
    return {table: found for table, found in rows.items() if found}


def test_the_new_file_has_the_rows(index: Index, tmp_path: Path) -> None:
    """After the replacement the index has these rows and no others, and nothing is left over."""
    index.close()
    assert write_new(Directory(tmp_path), STORED) == 1002
    replace_data_file(Directory(tmp_path))
    assert rows_of(tmp_path) == ROWS
    assert {path.name for path in tmp_path.iterdir()} == {"data.mdb", "lock.mdb"}


def test_those_who_may_read_still_may(index: Index, tmp_path: Path) -> None:
    """The new files have the mode and the group of the old ones."""
    index.close()
    for name, mode in (("data.mdb", 0o644), ("lock.mdb", 0o664)):
        (tmp_path / name).chmod(mode)
        if os.geteuid() == 0:
            os.chown(tmp_path / name, -1, 4001)
    before = {path.name: path.stat() for path in tmp_path.iterdir()}
    write_new(Directory(tmp_path), STORED)
    replace_data_file(Directory(tmp_path))
    for name, old in before.items():
        status = (tmp_path / name).stat()
        assert (status.st_mode, status.st_gid) == (old.st_mode, old.st_gid)


def test_the_list_of_those_who_may_read_stays(index: Index, tmp_path: Path) -> None:
    """An ACL is copied; the group gets no more than it had."""
    index.close()
    # acl(5): version 2; u::rw- u:4001:r-- g::--- m::r-- o::---
    entries = [(1, 6, -1), (2, 4, 4001), (4, 0, -1), (16, 4, -1), (32, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, permission, user & 0xFFFFFFFF) for tag, permission, user in entries
    )
    try:
        os.setxattr(tmp_path / "data.mdb", "system.posix_acl_access", acl)
    except OSError as exc:
        pytest.skip(f"a file system without ACLs: {exc}")
    write_new(Directory(tmp_path), STORED)
    replace_data_file(Directory(tmp_path))
    assert os.getxattr(tmp_path / "data.mdb", "system.posix_acl_access") == acl


@pytest.mark.parametrize("step", range(4))
def test_an_interrupted_replacement(
    index: Index, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash at any step leaves the old rows or the new ones, and it can be done again."""
    index.close()
    write_new(Directory(tmp_path), STORED)
    steps = 0

    def sync(_: Directory) -> None:
        nonlocal steps
        if steps == step:
            raise KeyboardInterrupt
        steps += 1

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "sync", sync)
        if step < 2:
            with pytest.raises(KeyboardInterrupt):
                replace_data_file(Directory(tmp_path))
        elif step == 2:
            patch.setattr(rebuild, "remove_new", sync)
            with pytest.raises(KeyboardInterrupt):
                replace_data_file(Directory(tmp_path))
    old = {Table.META: [(b"a", b"1")]}
    assert rows_of(tmp_path) == (ROWS if step in (1, 2) else old)
    write_new(Directory(tmp_path), STORED)
    replace_data_file(Directory(tmp_path))
    assert rows_of(tmp_path) == ROWS


def test_a_new_file_of_a_crash_is_written_again(index: Index, tmp_path: Path) -> None:
    """Half of a new file hinders no later one."""
    index.close()
    write_new(Directory(tmp_path), {})
    assert rows_of(tmp_path) == {Table.META: [(b"a", b"1")]}
    write_new(Directory(tmp_path), STORED)
    replace_data_file(Directory(tmp_path))
    assert rows_of(tmp_path) == ROWS


def test_a_writer_goes_on(tmp_path: Path) -> None:
    """Commits work in the new file as in any other, though the lock file was of the old one."""
    index = Index(Directory(tmp_path))
    for number in range(30):
        put(index, b"a", b"%d" % number)
    index.close()
    write_new(Directory(tmp_path), STORED)
    replace_data_file(Directory(tmp_path))
    index = Index(Directory(tmp_path))
    put(index, b"c", b"3")
    index.close()
    assert rows_of(tmp_path)[Table.META] == [*ROWS[Table.META], (b"c", b"3")]


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
    index.compact()
    assert (tmp_path / "data.mdb").stat().st_size < before / 4
    put(index, b"a", b"2")
    index.compact()  # does nothing
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
    index.compact()
    index.close()
    assert (moved / "data.mdb").stat().st_size < before / 4
    assert (folder / "data.mdb").stat().st_size == before


def test_no_link_to_a_folder_is_followed(index: Index, tmp_path: Path) -> None:
    """A link in the place of the new file's folder is refused; its target stays as it is."""
    index.close()
    other = tmp_path.with_name("other")
    other.mkdir()
    (other / "data.mdb").write_bytes(b"of another program")
    (tmp_path / "new").symlink_to(other)
    for use in (rebuild.remove_new, replace_data_file):
        with pytest.raises(IrregularFile, match=f"{tmp_path}/new .a symbolic link"):
            use(Directory(tmp_path))
    with pytest.raises(IrregularFile):
        write_new(Directory(tmp_path), STORED)
    assert (other / "data.mdb").read_bytes() == b"of another program"


@pytest.mark.parametrize("setting", ["COMPACT_MIN", "ROOM_PART"])
def test_an_index_stays_as_it_is(
    tmp_path: Path, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it is small, or if there is no room, its file is not copied."""
    monkeypatch.setattr(rebuild, "COMPACT_MIN", 1 << 20)
    monkeypatch.setattr(rebuild, setting, 1 << 40 if setting == "COMPACT_MIN" else 0.0)
    before = filled_and_emptied(tmp_path)
    index = Index(Directory(tmp_path))
    index.compact()
    index.close()
    assert (tmp_path / "data.mdb").stat().st_size == before
    assert not (tmp_path / "new").exists()


COMPACT = """
import sys
from pathlib import Path
from modelfs.store.directory import Directory
from modelfs.store.index import rebuild
from modelfs.store.index.index import Index
from tests.support.small_index import put
rebuild.COMPACT_MIN = 1 << 20
index = Index(Directory(Path(sys.argv[1])))
index.compact()
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
    index.reopen()
    assert index.get(Table.META, b"a") == b"99"
    assert list(index.pages(Table.CHUNKS)) == rows
    index.close()
