"""Upgrades of stores of an older format, when they are opened for writing."""

import dataclasses
import errno
import os
from pathlib import Path

import pytest

from modelfs.errors import StoreFull
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import (
    FORMAT_FILE,
    FORMAT_NEW,
    FORMAT_TEXT,
    INDEX,
    check_format,
    read_superblock,
)
from modelfs.store.index.counters import OPTIMIZE_AGAIN, OPTIMIZE_WALK
from modelfs.store.index.index import CommitBatch, Index
from modelfs.store.index.superblock import FORMAT_VERSION, SUPERBLOCK
from modelfs.store.index.tables import ROOT, Table, number_key
from modelfs.store.store import Store
from tests.support.damaged_rows import raw_rows
from tests.support.golden_stores import golden_store
from tests.support.stores import check_closed


@pytest.mark.parametrize("crash", ["none", "before the format file", "behind the format file"])
def test_an_older_store_is_upgraded_format_file_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, crash: str
) -> None:
    """Older versions are kept out before a new row is written; a crash repeats the upgrade."""
    set_format(folder, 1)
    if crash == "before the format file":
        monkeypatch.setattr(os, "rename", broken)
    if crash == "behind the format file":
        monkeypatch.setattr(Directory, "sync", broken)
    if crash != "none":
        with pytest.raises(OSError, match="broken"):
            Store(folder)
        monkeypatch.undo()
        wanted = 1 if crash == "before the format file" else FORMAT_VERSION
        assert check_format(Directory(folder)) == wanted
    with Store(folder) as store:
        assert store.superblock.version == FORMAT_VERSION
        assert store.counters.get(OPTIMIZE_WALK) == 1
        with store.index.change():
            store.counters.set(OPTIMIZE_WALK, 0)
    assert check_format(Directory(folder)) == FORMAT_VERSION
    assert check_closed(folder) == []
    with Store(folder) as store:
        assert store.counters.get(OPTIMIZE_WALK) == 0  # the upgrade is not repeated


def test_a_reader_upgrades_nothing(folder: Path) -> None:
    """A store of an older format that is opened read-only stays as it is."""
    set_format(folder, 1)
    with Store(folder, read_only=True) as store:
        assert store.superblock.version == 1
    assert check_format(Directory(folder)) == 1


def test_the_upgrade_follows_no_link(folder: Path) -> None:
    """A link under the name of the new format file is replaced, and its target is not."""
    set_format(folder, 1)
    target = folder.parent / "target"
    target.write_bytes(b"content")
    (folder / FORMAT_NEW).symlink_to(target)
    Store(folder).close()
    assert check_format(Directory(folder)) == FORMAT_VERSION
    assert target.read_bytes() == b"content"
    assert not (folder / FORMAT_FILE).is_symlink()


before_this_format = pytest.mark.parametrize("version", range(1, FORMAT_VERSION))


@before_this_format
def test_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    """If the commit of an upgrade fails, no row has changed; the next open repeats it."""
    path = golden_store(tmp_path, version)
    with raw_rows(path / INDEX) as rows:
        before = {table: dict(of_table) for table, of_table in rows.items()}
    with monkeypatch.context() as patch:
        patch.setattr(CommitBatch, "write", full_disk)
        with pytest.raises(StoreFull):
            Store(path)
    with raw_rows(path / INDEX) as rows:
        assert rows == before
    assert check_format(Directory(path)) == FORMAT_VERSION
    with Store(path) as store:
        assert store.superblock.version == FORMAT_VERSION
    assert check_closed(path) == []


@before_this_format
def test_the_optimizer_walks_after_format_1(tmp_path: Path, version: int) -> None:
    """Only a store of format 1 has no list of files to optimize: all of its files are visited."""
    with Store(golden_store(tmp_path, version)) as store:
        assert (store.counters.get(OPTIMIZE_WALK) == 1) == (version == 1)
        assert store.counters.get(OPTIMIZE_AGAIN) == 0


def test_a_damaged_inode_stays_as_it_is(tmp_path: Path) -> None:
    """A row that does not decode gets a checksum of its value, and no totals: fsck names it."""
    path = golden_store(tmp_path, FORMAT_VERSION - 1)
    with raw_rows(path / INDEX) as rows:
        inode = max(rows[Table.INODES])
        assert inode != number_key(ROOT)
        rows[Table.INODES][inode] = damaged = rows[Table.INODES][inode][:-1]
    Store(path).abandon()
    with Store(path, read_only=True) as store:
        assert store.index.get(Table.INODES, inode) == damaged
    assert check_closed(path) != []


def full_disk(_: CommitBatch, *_upgrade: object) -> None:
    raise StoreFull("no space left")


def set_format(folder: Path, version: int) -> None:
    """Let a store say that it has an older format."""
    (folder / FORMAT_FILE).write_text(FORMAT_TEXT.format(version=version))
    index = Index(Directory(folder / INDEX))
    with index.change():
        block = dataclasses.replace(read_superblock(index), version=version)
        index.put(Table.META, SUPERBLOCK, block.to_bytes())
    index.commit()
    index.close()


def broken(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, "broken")
