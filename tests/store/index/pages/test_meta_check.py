"""Meta pages: no field of one is believed alone."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelfs.errors import DamagedPages, IndexLost
from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from modelfs.store.index.opening import check_meta_pages
from modelfs.store.index.pages import meta as meta_pages
from modelfs.store.index.pages.layout import PageFile
from modelfs.store.index.pages.meta import META_SIZE, RECORD, SECTOR, newest, read_metas
from modelfs.store.index.pages.meta_check import meta_problems
from modelfs.store.index.pages.walk import PageWalk
from modelfs.store.index.tables import Table
from tests.support.index_pages import SIZE
from tests.support.meta_fields import flip, forget_records, last_meta, record_of, wipe
from tests.support.meta_heads import heads, states
from tests.support.small_index import put
from tests.support.stores import overwrite

LAST_BIT = 8 * META_SIZE
# The last two fields.
NUMBER_BITS = range(8 * (META_SIZE - 8), LAST_BIT)
LAST_PAGE_BITS = range(8 * (META_SIZE - 16), 8 * (META_SIZE - 8))
HEAD_PADDING = {*range(64, 80), *range(96, 128)}


def is_refused(path: Path) -> bool:
    try:
        check_meta_pages(Directory(path.parent))
    except DamagedPages:
        return True
    return False


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


def test_without_a_record_every_bit_of_the_numbers_is_checked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each number has to be that of the page's last list of free pages."""
    monkeypatch.setattr("modelfs.store.index.opening.LOOKS_MAX", 1)
    forget_records(path)
    assert not is_refused(path)
    for page in range(2):
        for bit in NUMBER_BITS:
            flip(path, page, bit)
            assert is_refused(path), (page, bit)
            flip(path, page, bit)


@pytest.mark.parametrize("later", [0, 1], ids=["at rest", "in the next commit"])
@pytest.mark.parametrize("commit", [1, 2, 9])
def test_no_bit_loses_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: int, later: int
) -> None:
    """Of pages and records, in all states of the file: it is refused, or the last commit is read.

    In the next commit, other pages are as that one wrote them.
    """
    path = tmp_path / "data.mdb"
    found = heads(path, monkeypatch, commit - 1 + later)
    assert found[commit - 1].commit == commit
    places = [*range(META_SIZE), *range(SIZE - SECTOR, SIZE - SECTOR + RECORD.size)]
    with PageFile(Directory(tmp_path)) as file, path.open("r+b") as raw:
        for name, state in states(found, commit - 1).items():
            os.pwrite(raw.fileno(), state, 0)
            assert meta_problems(file) == [], name
            good = newest(read_metas(file))
            assert good is not None
            assert good.transaction == commit
            for place in (page * SIZE + at for page in range(2) for at in places):
                for bit in range(8):
                    os.pwrite(raw.fileno(), bytes([state[place] ^ 1 << bit]), place)
                    if not meta_problems(file):
                        meta = newest(read_metas(file))
                        assert meta is not None
                        is_same = meta.transaction == commit and meta.has_trees_of(good)
                        assert is_same or PageWalk(file, meta).problems, (name, place, bit)
                os.pwrite(raw.fileno(), state[place : place + 1], place)


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


@contextmanager
def failing_meta_writes(path: Path) -> Iterator[None]:
    """Let LMDB's writes of meta pages fail, for which it has a descriptor with O_DSYNC."""
    fds = [
        int(fd.name)
        for fd in Path("/proc/self/fd").iterdir()
        if os.path.realpath(fd) == str(path)
        and fcntl.fcntl(int(fd.name), fcntl.F_GETFL) & os.O_DSYNC
    ]
    assert len(fds) == 1
    with path.open("rb") as readable:
        os.dup2(readable.fileno(), fds[0], inheritable=False)
    yield


def test_a_failed_commit_leaves_no_damage(path: Path) -> None:
    """LMDB leaves new trees on the page with the old number; it gets those of the last commit."""
    index = Index(Directory(path.parent))
    with failing_meta_writes(path), pytest.raises(OSError, match="Bad file"):
        put(index, b"later", b"1")
    check_meta_pages(Directory(path.parent))
    put(index, b"later", b"2")
    assert index.get(Table.META, b"5") == bytes(1000)
    index.close()
    check_meta_pages(Directory(path.parent))


def test_a_crash_in_a_failed_commit_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page looks like that of a durable commit with a wrong number, and may be one."""
    index = Index(Directory(path.parent))
    with monkeypatch.context() as patch:
        patch.setattr("modelfs.store.index.index_file.withdraw", lambda _: None)
        with failing_meta_writes(path), pytest.raises(OSError, match="Bad file"):
            put(index, b"later", b"1")
    index.close()
    assert is_refused(path)


def test_the_first_commit_can_fail(path: Path) -> None:
    """Both pages name commit 0 then, as before it; not so if a bit of the number 1 flipped."""
    path.unlink()
    Index(Directory(path.parent)).close()
    with PageFile(Directory(path.parent)) as file:
        first = newest(read_metas(file))
    assert first is not None
    assert first.transaction == 1
    for last, is_damage in ((1, False), (first.last, True)):
        failed = first.with_fields(transaction=0, last=last)
        overwrite(path, SIZE, meta_pages.page_of(failed, 1))
        assert is_refused(path) == is_damage


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
from tests.support.meta_heads import heads, states
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
