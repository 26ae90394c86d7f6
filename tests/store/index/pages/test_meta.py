"""Meta pages, their last lists of free pages, and the records beside them."""

import os
from pathlib import Path

import lmdb
import pytest

from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from modelfs.store.index.pages.layout import PageFile
from modelfs.store.index.pages.meta import RECORD_MAGIC, SECTOR, last_freed, read_metas
from modelfs.store.index.pages.meta_check import meta_problems
from modelfs.store.index.tables import Table
from tests.support.index_pages import SIZE
from tests.support.meta_fields import last_meta, record_of
from tests.support.small_index import put


def test_a_commit_leaves_a_record_on_the_other_page(path: Path) -> None:
    """The record has the content of the last commit's meta page, and LMDB's own pages stay."""
    assert record_of(path) == last_meta(path)
    other = (last_meta(path).transaction + 1) & 1
    assert path.read_bytes()[(other + 1) * SIZE - SECTOR :][:8] == RECORD_MAGIC
    with lmdb.open(str(path.parent), readonly=True, max_dbs=64, create=False) as env:
        assert env.info()["last_txnid"] == last_meta(path).transaction


def test_a_record_that_cannot_be_written_fails_no_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk that copies blocks before it writes them."""

    def full(*_: object) -> int:
        raise OSError(28, "no space")

    index = Index(Directory(path.parent))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        put(index, b"later", b"1")
    assert index.get(Table.META, b"later") == b"1"
    index.close()
    assert record_of(path) != last_meta(path)
    with PageFile(Directory(path.parent)) as file:
        assert meta_problems(file) == []


def test_every_commit_has_a_list_of_its_own(tmp_path: Path) -> None:
    """The last list of both meta pages is of the page's commit; the first commit has none."""
    path = tmp_path / "data.mdb"
    index = Index(Directory(tmp_path))
    seen = set()
    for number in range(40):
        with PageFile(Directory(tmp_path)) as file:
            for meta in read_metas(file):
                assert meta is not None
                seen.add(meta.transaction)
                assert last_freed(file, meta) == (meta.transaction if meta.transaction > 1 else 0)
        # Some in place, some that free many pages.
        put(index, b"%d" % (number % 7), bytes(3000 if number % 5 else 1))
    index.close()
    assert seen == {*range(last_meta(path).transaction)}
