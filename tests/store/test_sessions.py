"""Sessions: numbers and names of a store are given out once, in all its histories."""

import secrets
import shutil
from pathlib import Path

import pytest

from modelfs.jobs.check.fsck import check
from modelfs.store.disk.directory import Directory
from modelfs.store.index.counters import (
    NEXT_CHUNK,
    NEXT_INODE,
    NEXT_PACK,
    SESSION,
    Counters,
)
from modelfs.store.index.index import Index
from modelfs.store.index.tables import NUMBER_END, ROOT, Table
from modelfs.store.sessions import GAP
from modelfs.store.store import Store
from tests.support.stores import (
    CHUNK,
    Box,
    check_closed,
    durable,
    names_in,
    new_file,
    new_store,
    noise,
    stored_file,
)

NUMBERS = (NEXT_INODE, NEXT_CHUNK, NEXT_PACK)


def numbers_of_session(path: Path) -> set[tuple[str, object]]:
    """Write a stored and a staged file; return all numbers and names that readers can learn."""
    with Store(path) as store:
        before = {chunk for chunk, _ in store.index.pages(Table.CHUNKS)}
        store.packs.seal(max(store.packs.numbers()))
        stored = stored_file(store, b"stored", noise(CHUNK, 1))
        staged = new_file(store, b"staged", noise(CHUNK, 2))
        durable(store, staged)
        chunks = {chunk for chunk, _ in store.index.pages(Table.CHUNKS)} - before
        return {
            ("inode", stored),
            ("inode", staged),
            *(("chunk", chunk) for chunk in chunks),
            ("pack", max(store.packs.numbers())),
            *(
                ("window", name.partition("-")[2])
                for name in names_in(store.staging.directory.path)
            ),
            ("session", store.counters.get(SESSION)),
        }


def test_no_number_returns_with_a_backup(tmp_path: Path) -> None:
    """Numbers and names that were given out since a backup are not given out after it."""
    path = new_store(tmp_path)
    with Store(path) as store:
        stored_file(store, b"old", noise(CHUNK))
    shutil.copytree(path, tmp_path / "backup")
    first = numbers_of_session(path)
    shutil.rmtree(path)
    shutil.copytree(tmp_path / "backup", path)
    second = numbers_of_session(path)
    assert len(first) == len(second) == 6
    assert not first & second
    assert check_closed(path) == []


def test_no_staging_name_returns(box: Box) -> None:
    """A window whose file was deleted gets a new name in the next session."""
    inode = new_file(box.store, b"f", b"one")
    durable(box.store, inode)
    before = names_in(box.store.staging.directory.path)
    box.store.writes.truncate(inode, 0)
    durable(box.store, inode)
    assert names_in(box.store.staging.directory.path) == set()
    store = box.reopen()
    store.writes.write(inode, 0, b"two")
    durable(store, inode)
    assert len(names_in(store.staging.directory.path)) == 1
    assert not before & names_in(store.staging.directory.path)


def test_the_first_numbers_are_small(box: Box) -> None:
    """An empty store has no gaps, however often it was opened."""
    store = box.reopen()
    assert [store.counters.get(name) for name in NUMBERS] == [ROOT + 1, 1, 1]
    new_file(store, b"f")
    store = box.crash()
    assert new_file(store, b"f") == ROOT + 1
    store = box.reopen()
    gaps = [store.counters.get(name) for name in NUMBERS]
    assert all(1 < number < GAP + 3 for number in gaps)


def test_numbers_are_durable_with_their_first_use(box: Box) -> None:
    """An opening writes nothing; its first commit has the numbers of its session."""
    new_file(box.store, b"f")
    store = box.reopen()
    drawn = [store.counters.get(name) for name in (*NUMBERS, SESSION)]
    store = box.crash()
    assert not set(drawn) & {store.counters.get(name) for name in (*NUMBERS, SESSION)}
    drawn = [store.counters.get(name) for name in (*NUMBERS, SESSION)]
    store.commit()
    store.abandon()
    with Store(box.path, read_only=True) as store:
        assert [store.counters.get(name) for name in (*NUMBERS, SESSION)] == drawn
    box.store = Store(box.path)


def test_numbers_never_run_out(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near the end of all numbers the gaps become small."""
    new_file(box.store, b"f")
    with box.store.index.change():
        for name in NUMBERS:
            box.store.counters.set(name, NUMBER_END - 5)
    monkeypatch.setattr(secrets, "randbelow", lambda stop: stop - 1)
    store = box.reopen()
    assert [store.counters.get(name) for name in NUMBERS] == [NUMBER_END - 5] * 3


def test_damaged_counters_do_not_prevent_an_opening(tmp_path: Path) -> None:
    """A damaged row of a counter stays as it is, for fsck to report."""
    path = new_store(tmp_path)
    with Store(path) as store:
        stored_file(store, b"old", noise(CHUNK))
    index = Index(Directory(path / "index"))
    with index.change():
        for name in (NEXT_INODE, NEXT_CHUNK):
            index.put(Table.META, name, b"damage")
    index.commit()
    index.close()
    with Store(path) as store:
        assert {finding.invariant for finding in check(store)} == {"row"}
        assert Counters(store.index).get(NEXT_PACK) > 2
