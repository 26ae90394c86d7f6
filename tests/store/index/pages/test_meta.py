"""Meta pages: no field of one is believed alone."""

import os
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from modelfs.errors import DamagedPages, IndexLost
from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from modelfs.store.index.opening import check_meta_pages
from modelfs.store.index.pages import meta as meta_pages
from modelfs.store.index.pages.meta import META_SIZE, SECTOR
from modelfs.store.index.tables import Table
from tests.support.index_pages import SIZE
from tests.support.meta_fields import flip, forget_records, last_meta, record_of, wipe
from tests.support.small_index import put
from tests.support.stores import overwrite

LAST_BIT = 8 * META_SIZE
# The last two fields.
NUMBER_BITS = range(8 * (META_SIZE - 8), LAST_BIT)
LAST_PAGE_BITS = range(8 * (META_SIZE - 16), 8 * (META_SIZE - 8))
HEAD_PADDING = {*range(64, 80), *range(96, 128)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The data file of an index with some commits."""
    index = Index(Directory(tmp_path))
    for number in range(6):
        put(index, b"%d" % number, bytes(1000))
    index.close()
    return tmp_path / "data.mdb"


def is_refused(path: Path) -> bool:
    try:
        check_meta_pages(Directory(path.parent))
    except DamagedPages:
        return True
    return False


def test_a_commit_leaves_a_record_on_the_other_page(path: Path) -> None:
    """The record has the content of the last commit's meta page, and LMDB's own pages stay."""
    assert record_of(path) == last_meta(path)
    other = (last_meta(path).transaction + 1) & 1
    assert path.read_bytes()[(other + 1) * SIZE - SECTOR :][:8] == meta_pages.RECORD_MAGIC
    with lmdb.open(str(path.parent), readonly=True, max_dbs=64, create=False) as env:
        assert env.info()["last_txnid"] == last_meta(path).transaction


def test_every_bit_of_the_newest_page_is_checked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bit of it can flip without being noticed, except those of the head that LMDB ignores."""
    monkeypatch.setattr("modelfs.store.index.opening.LOOKS_MAX", 1)
    page = last_meta(path).transaction & 1
    for bit in sorted({*range(LAST_BIT)} - HEAD_PADDING):
        flip(path, page, bit)
        assert is_refused(path), bit
        flip(path, page, bit)
    assert not is_refused(path)


def test_without_a_record_the_numbers_have_to_be_in_a_row(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of either page is wrong unless they are t and t - 1, each on its page."""
    monkeypatch.setattr("modelfs.store.index.opening.LOOKS_MAX", 1)
    forget_records(path)
    assert not is_refused(path)
    last = last_meta(path).transaction
    for page, number in ((last & 1, last), (last + 1 & 1, last - 1)):
        other = 2 * last - 1 - number
        for bit in range(64):
            flip(path, page, NUMBER_BITS[bit])
            # The commit before the other page's, or the one after it, may be on this page, too.
            assert is_refused(path) == (abs((number ^ 1 << bit) - other) != 1), (page, bit)
            flip(path, page, NUMBER_BITS[bit])


def test_without_a_record_the_last_page_is_near_the_end(path: Path) -> None:
    """LMDB would map as many pages as a wrong number has, so it never gets one."""
    forget_records(path)
    page = last_meta(path).transaction & 1
    for bit in range(64):
        flip(path, page, LAST_PAGE_BITS[bit])
        if last_meta(path).last * SIZE > path.stat().st_size + 64 * SIZE:
            with pytest.raises(DamagedPages, match="cut short"):
                Index(Directory(path.parent))
        elif last_meta(path).last * SIZE < path.stat().st_size - SIZE:
            with pytest.raises(DamagedPages):
                Index(Directory(path.parent))
        flip(path, page, LAST_PAGE_BITS[bit])
    Index(Directory(path.parent)).close()


def test_an_older_record_is_no_damage(path: Path) -> None:
    """A crash can come before the kernel has written the last record, or tear it."""
    before = path.read_bytes()
    index = Index(Directory(path.parent))
    put(index, b"later", b"1")
    index.close()
    for page in range(2):
        start = (page + 1) * SIZE - SECTOR
        overwrite(path, start, before[start : start + SECTOR])
    record = record_of(path)
    assert record is not None
    assert record.transaction < last_meta(path).transaction
    assert not is_refused(path)
    overwrite(path, SIZE - SECTOR + 20, b"torn")
    overwrite(path, 2 * SIZE - SECTOR + 20, b"torn")
    assert record_of(path) is None
    assert not is_refused(path)


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
    assert not is_refused(path)


def test_a_lost_write_of_a_meta_page_is_found(path: Path) -> None:
    """The disk has the page as it was before the last commit, which the record names."""
    page = (last_meta(path).transaction + 1) & 1
    before = path.read_bytes()[page * SIZE :][:META_SIZE]
    index = Index(Directory(path.parent))
    put(index, b"later", b"1")
    index.close()
    overwrite(path, page * SIZE, before)
    with pytest.raises(DamagedPages, match="commit"):
        Index(Directory(path.parent))


def test_a_failed_commit_leaves_no_damage(path: Path) -> None:
    """LMDB gives the page its old number back, and new trees: the index opens as before."""
    last = last_meta(path)
    page = (last.transaction + 1) & 1
    # The trees reach beyond the last page that it names.
    failed = last.with_fields(transaction=last.transaction - 1, last=2)
    overwrite(path, page * SIZE, meta_pages.page_of(failed, page))
    index = Index(Directory(path.parent))
    put(index, b"later", b"1")
    assert index.get(Table.META, b"5") == bytes(1000)
    index.close()


def test_two_wiped_pages_are_the_end(path: Path) -> None:
    """Without a record nothing is known; with one, the index is damaged, and can be repaired."""
    for page in range(2):
        wipe(path, page)
    with pytest.raises(DamagedPages, match="meta page 0 of the index is damaged"):
        Index(Directory(path.parent))
    forget_records(path)
    with pytest.raises(IndexLost):
        Index(Directory(path.parent))


COMMITS = """
import sys
from pathlib import Path
from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from tests.support.small_index import put
index = Index(Directory(Path(sys.argv[1])))
print("open", flush=True)
for number in range(100_000):
    put(index, b"key", b"%d" % number)
"""


def test_a_check_beside_a_writer_finds_nothing(path: Path) -> None:
    """Commits change both pages and the records all the time, and no look at them is a finding."""
    command = [sys.executable, "-c", COMMITS, str(path.parent)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            first = last_meta(path).transaction
            for _ in range(300):
                check_meta_pages(Directory(path.parent))
            assert last_meta(path).transaction > first
        finally:
            writer.kill()
    check_meta_pages(Directory(path.parent))
