"""Repair of the meta pages: the last commit is kept whenever anything shows which one it was."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelfs.errors import CorruptIndex, StoreFull
from modelfs.jobs.check.fsck import check
from modelfs.jobs.repair.meta_pages import _consecutive, restore_meta_pages
from modelfs.jobs.repair.quarantine import FOLDER, Quarantine
from modelfs.jobs.repair.run import Outcome, repair
from modelfs.jobs.repair.superblock import restore_superblock
from modelfs.store.disk.directory import Directory
from modelfs.store.index.pages.meta import META_SIZE
from modelfs.store.store import Store
from tests.support.byte_damage import Contents, files_of, lost_files
from tests.support.index_pages import SIZE, data_file
from tests.support.meta_fields import flip, forget_records, last_meta, record_of, wipe
from tests.support.meta_heads import heads, states
from tests.support.sample_store import Sample
from tests.support.stores import new_file, noise, overwrite

# Offsets of a meta page's fields, and their bytes.
FIELDS = {
    "number": (0, 8),
    "magic": (16, 4),
    "version": (20, 4),
    "map size": (32, 8),
    "page size": (40, 4),
    "flags of the free pages": (44, 2),
    "depth of the free pages": (46, 2),
    "root of the free pages": (80, 8),
    "padding of the tables": (88, 4),
    "flags of the tables": (92, 2),
    "entries of the tables": (120, 8),
    "root of the tables": (128, 8),
    "last page": (136, 8),
    "commit": (144, 8),
}


@pytest.fixture
def content(good: Contents) -> Contents:
    """The files of that store."""
    return {**good, b"/acknowledged": noise(5000, 8)}


def newest_page(store: Path) -> int:
    return last_meta(data_file(store)).transaction & 1


def mended(store: Path) -> set[Outcome]:
    """Repair a store that cannot be opened, and return the outcomes; it is sound then."""
    assert refuses(store)
    report = repair(store)
    assert report.after.findings == []
    assert report.found
    with Store(store, read_only=True) as opened:
        assert check(opened, data=True) == []
    return {action.outcome for action in report.actions}


def refuses(store: Path) -> bool:
    try:
        Store(store, read_only=True).close()
    except CorruptIndex:
        return True
    return False


def test_the_record_brings_the_last_commit_back(closed: Path, content: Contents) -> None:
    """A meta page that is gone whole is copied from its record: nothing is lost."""
    wipe(data_file(closed), newest_page(closed))
    assert mended(closed) == {Outcome.REPAIRED}
    assert files_of(closed) == content


def test_both_pages_come_back(closed: Path, content: Contents) -> None:
    """With the record, no meta page is needed; that there was no later commit is not known."""
    for page in range(2):
        wipe(data_file(closed), page)
    assert mended(closed) == {Outcome.QUARANTINED}
    assert files_of(closed) == content


def test_a_lost_write_of_a_meta_page_is_made_good(sample: Sample, good: Contents) -> None:
    """The page is as it was two commits ago, so nothing in it is wrong but its age."""
    path = data_file(sample.path)
    sample.store.attributes.put(sample.text, b"user.note", b"1")
    sample.store.commit()
    page = (last_meta(path).transaction + 1) & 1
    stale = path.read_bytes()[page * SIZE :][:META_SIZE]
    inode = new_file(sample.store, b"acknowledged", noise(5000, 8))
    sample.store.flush(inode)
    sample.store.commit()
    sample.store.abandon()
    overwrite(path, page * SIZE, stale)
    assert mended(sample.path) == {Outcome.REPAIRED}
    assert files_of(sample.path) == {**good, b"/acknowledged": noise(5000, 8)}


@pytest.mark.parametrize("field", FIELDS)
def test_without_a_record_no_bit_loses_the_last_commit(
    closed: Path, content: Contents, field: str
) -> None:
    """The first bit of a field of the newest page, or its last one: all files are there."""
    path = data_file(closed)
    start, size = FIELDS[field]
    page = newest_page(closed)
    for bit in (8 * start, 8 * (start + size) - 1):
        forget_records(path)
        flip(path, page, bit)
        if refuses(closed):
            mended(closed)
        assert files_of(closed) == content
        page = newest_page(closed)


@pytest.mark.parametrize("bit", [0, 1, 2, 3, 20, 62, 63])
def test_the_older_page_does_not_take_over(closed: Path, content: Contents, bit: int) -> None:
    """Its number becomes larger than that of the last commit: it does not win by that."""
    path = data_file(closed)
    forget_records(path)
    flip(path, newest_page(closed) ^ 1, 8 * (META_SIZE - 8) + bit)
    if refuses(closed):
        assert mended(closed) == {Outcome.REPAIRED}
    assert files_of(closed) == content


@pytest.mark.parametrize("commit", [1, 2, 8, 9])
def test_every_bit_of_a_number_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: int
) -> None:
    """Of either page, and of the root of its free pages: the last commit stays.

    The bits that make another root of it are left to the repair of pages.
    """
    path = tmp_path / "data.mdb"
    found = heads(path, monkeypatch, commit)
    index = Directory(tmp_path)
    quarantine = Quarantine(Directory(tmp_path))
    monkeypatch.setattr(Quarantine, "copy", lambda *_: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    bits = [*range(8 * (META_SIZE - 8), 8 * META_SIZE), *range(8 * 80, 8 * 81)]
    for state in states(found, commit - 1).values():
        overwrite(path, 0, state)
        good = last_meta(path)
        assert good.transaction == commit
        for page in range(2):
            for bit in bits:
                overwrite(path, 0, state)
                flip(path, page, bit)
                lost: list[str] = []
                restore_meta_pages(index, quarantine, lost.append)
                assert lost == []
                assert last_meta(path).transaction == commit
                assert last_meta(path).tables == good.tables
                if bit // 8 >= META_SIZE - 8:
                    assert last_meta(path).content == good.content


def test_a_crash_in_a_failed_commit_keeps_the_store(closed: Path, content: Contents) -> None:
    """LMDB gave the page of a failed commit its old number; all pages of that commit are there."""
    path = data_file(closed)
    forget_records(path)
    last = last_meta(path).transaction
    set_number(path, last & 1, last - 2)
    assert mended(closed) == {Outcome.REPAIRED}
    assert files_of(closed) == content


def test_a_store_without_the_last_commit_says_so(closed: Path, content: Contents) -> None:
    """If nothing has the last commit, the one before is taken, and staged bytes are kept."""
    path = data_file(closed)
    staged = {each.name for each in (closed / "staging").iterdir()}
    forget_records(path)
    wipe(path, newest_page(closed))
    report = repair(closed)
    assert report.after.findings == []
    assert Outcome.QUARANTINED in {action.outcome for action in report.actions}
    assert any("changes of a later commit" in action.message for action in report.actions)
    del content[b"/acknowledged"]
    assert files_of(closed) == content
    kept = {each.name for folder in ("staging", FOLDER) for each in (closed / folder).iterdir()}
    assert staged <= kept


def test_the_next_commit_has_a_sound_page_beside_it(closed: Path, content: Contents) -> None:
    """The repaired pages are those of two commits in a row, and the store goes on from there."""
    path = data_file(closed)
    wipe(path, newest_page(closed))
    repair(closed)
    with Store(closed) as store:
        new_file(store, b"later", b"")
        store.commit()
        assert record_of(path) == last_meta(path)
    assert files_of(closed) == {**content, b"/later": b""}
    assert lost_files(repair(closed)) == set()


def set_number(path: Path, page: int, transaction: int) -> None:
    """Let a meta page name another commit."""
    overwrite(path, page * SIZE + META_SIZE - 8, transaction.to_bytes(8, "little"))


def both_gone(path: Path) -> None:
    for page in range(2):
        wipe(path, page)


def the_other_is_next(path: Path) -> None:
    """The last page is gone, and the other one seems to be of the commit after it."""
    last = last_meta(path).transaction
    wipe(path, last & 1)
    set_number(path, (last + 1) & 1, last + 1)


def both_numbers_wrong(path: Path) -> None:
    """Without a record, and with numbers of which one becomes the right one's neighbour."""
    last = last_meta(path).transaction
    forget_records(path)
    flip(path, last & 1, 8 * 88)  # a field that is known
    set_number(path, (last + 1) & 1, last + 1)


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("damage", [both_gone, the_other_is_next, both_numbers_wrong])
def test_an_interrupted_repair_is_begun_again(
    closed: Path,
    content: Contents,
    damage: Callable[[Path], None],
    call: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A repair that ends before any of its writes leaves a store that only the next one opens."""
    path = data_file(closed)
    damage(path)
    damaged = closed.parent / "copy"
    shutil.copytree(closed, damaged, ignore=shutil.ignore_patterns("*.sock"))
    whole = {action.outcome for action in repair(damaged).actions}
    calls = []

    write = os.pwrite

    def interrupt(fd: int, data: bytes, at: int) -> int:
        if len(data) == META_SIZE:
            calls.append(at)
            if len(calls) == call:
                raise KeyboardInterrupt
        return write(fd, data, at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", interrupt)
        with pytest.raises(KeyboardInterrupt):
            repair(closed)
    assert refuses(closed)
    assert mended(closed) == whole
    assert files_of(closed) == content


def test_without_room_for_the_copy_nothing_changes(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damaged file goes to quarantine first; if that fails, the pages are as they were."""

    def full(*_: object) -> None:
        raise StoreFull("no room")

    path = data_file(closed)
    wipe(path, newest_page(closed))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("modelfs.jobs.repair.quarantine.Quarantine.copy", full)
        with pytest.raises(StoreFull):
            repair(closed)
    assert path.read_bytes() == before


def test_an_index_that_lmdb_refuses_is_written_new(
    closed: Path, content: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of LMDB that no check foresees leads to a new index, too."""
    old = data_file(closed).read_bytes()

    def refuse(*given: Any) -> str | None:
        if data_file(closed).read_bytes() == old:
            raise CorruptIndex("MDB_INVALID")
        return restore_superblock(*given)

    monkeypatch.setattr("modelfs.jobs.repair.run.restore_superblock", refuse)
    report = repair(closed)
    assert report.after.findings == []
    assert "MDB_INVALID" in {finding.message for finding in report.found}
    assert any("in a new one" in action.message for action in report.actions)
    assert files_of(closed) == content


def test_the_numbers_that_most_agree_with() -> None:
    """Of the pages' numbers, their lists of free pages, and the record, most decide."""
    assert _consecutive([(0, 8), (1, 73), (0, 8), (1, 9)]) == (8, 9)
    assert _consecutive([(0, 8), (1, 8), (1, 9), (1, 9)]) == (8, 9)
    assert _consecutive([(0, 10), (1, 9)]) == (10, 9)
    assert _consecutive([(0, 1 << 62), (1, 9), (0, 8)]) == (8, 9)
    assert _consecutive([(0, 8), (1, 7), (1, 9), (0, 8)], 1) == (8, 9)
    assert _consecutive([]) == (0, 1)
