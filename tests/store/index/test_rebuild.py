"""A new data file in the place of an old one."""

import os
import struct
from pathlib import Path
from typing import Any

import lmdb
import pytest

from modelfs.errors import IrregularFile
from modelfs.store.disk.directory import Directory
from modelfs.store.index import rebuild
from modelfs.store.index.index import Index
from modelfs.store.index.rebuild import replace_data_file, write_new
from modelfs.store.index.row_checksum import with_checksum
from modelfs.store.index.tables import Table
from tests.support.small_index import put, rows_of

ROWS = {
    Table.META: [(b"a", b"2"), (b"b", bytes(9000))],
    Table.CHUNKS: [(b"%08d" % number, bytes(80)) for number in range(1000)],
}
STORED = {
    table: [(key, with_checksum(table, key, value)) for key, value in rows]
    for table, rows in ROWS.items()
}


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


def test_a_link_in_the_place_of_a_new_file(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With trust, a link that another user puts there just before LMDB opens it has no effect."""
    index.close()
    private = tmp_path / "private"
    private.touch()
    opened = lmdb.open

    def open_late(path: str, **options: Any) -> lmdb.Environment:
        new = tmp_path / "new"
        (new / "data.mdb").rename(new / "moved")
        (new / "data.mdb").symlink_to(private)
        return opened(path, **options)

    monkeypatch.setattr(lmdb, "open", open_late)
    with pytest.raises(IrregularFile, match=r"data\.mdb .a symbolic link"):
        write_new(Directory(tmp_path, trust=True), STORED)
    assert private.read_bytes() == b""
    assert (tmp_path / "new" / "moved").stat().st_size > 0
