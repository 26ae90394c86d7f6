"""Staging: windows and their files."""

import os
from pathlib import Path

import pytest

from modelfs.store.files.staged_file import StagedFile, Window, window_name
from modelfs.store.files.staging import Staging
from modelfs.store.index.index import Index
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.tables import InodeNumber, Table, pair_key
from modelfs.store.store import Store
from tests.support.run_jobs import ingest_file
from tests.support.stores import CHUNK, Box, content_of, new_file, noise, small_windows

WINDOW = 2 * CHUNK


@pytest.fixture(autouse=True)
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make windows small."""
    small_windows(monkeypatch, WINDOW)


def staged_of(store: Store, inode: InodeNumber) -> StagedFile:
    staged = store.staging.find(inode)
    assert staged is not None
    return staged


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_write_takes_the_windows_it_touches(opened: Store) -> None:
    """A file has a staging file for each written window, and for no other."""
    inode = new_file(opened, b"f")
    opened.writes.write(inode, WINDOW - 1, b"ab")
    opened.writes.write(inode, 100 * WINDOW, b"c")
    staged = staged_of(opened, inode)
    assert sorted(staged.windows) == [0, 1, 100]
    assert list(staged.ranges()) == [(WINDOW - 1, WINDOW + 1), (100 * WINDOW, 100 * WINDOW + 1)]
    assert staged.staged_bytes == 3
    assert len(names_in(opened.staging.folder)) == 3


@pytest.mark.parametrize("count", [2, 50])
def test_parts_are_found_among_few_and_many_windows(opened: Store, count: int) -> None:
    """Staged parts of a range are found, with more windows than the range has, or fewer."""
    inode = new_file(opened, b"f")
    for number in range(0, 2 * count, 2):
        opened.writes.write(inode, number * WINDOW + 10, b"x")
    staged = staged_of(opened, inode)
    starts = [low for _, low, _ in staged.within(WINDOW, 6 * WINDOW)]
    assert starts == [number * WINDOW + 10 for number in range(2, min(6, 2 * count), 2)]
    everything = list(staged.within(0, 1 << 60))
    assert len(everything) == count


def test_a_full_window_says_so(opened: Store) -> None:
    """A window is full when all its bytes are staged."""
    inode = new_file(opened, b"f", noise(WINDOW - 1))
    window = staged_of(opened, inode).windows[0]
    assert not window.full
    opened.writes.write(inode, WINDOW - 1, b"x")
    assert window.full


def test_a_window_begun_again_has_another_file(opened: Store) -> None:
    """A window that begins again after a truncation has a new file."""
    inode = new_file(opened, b"f", b"old")
    plan = opened.contents.plan(inode, 0, 3)
    opened.writes.truncate(inode, 0)
    opened.writes.write(inode, 0, b"new")
    assert opened.contents.gather(plan) == b"old"
    assert len(names_in(opened.staging.folder)) == 2
    opened.flush(inode)
    opened.commit()
    assert len(names_in(opened.staging.folder)) == 1
    assert content_of(opened, inode) == b"new"


def test_stamps_are_not_used_twice(opened: Store) -> None:
    """No two states of a file's windows have the same stamp."""
    inode = new_file(opened, b"f")
    seen: list[tuple[int, int]] = []
    for _ in range(3):
        for _ in range(3):
            opened.writes.write(inode, 0, b"x")
            seen.append(staged_of(opened, inode).windows[0].stamp)
        opened.writes.truncate(inode, 0)
    assert len(set(seen)) == len(seen)


def test_generations_go_on_after_a_crash(box: Box) -> None:
    """After the store is opened again, a new window gets no old name."""
    inode = new_file(box.store, b"f", b"old")
    box.store.flush(inode)
    box.store.commit()
    (before,) = names_in(box.store.staging.folder)
    store = box.crash()
    store.writes.truncate(inode, 0)
    store.writes.write(inode, 0, b"new")
    assert before in names_in(store.staging.folder)
    assert content_of(box.crash(), inode) == b"old"


def test_bytes_rewritten_before_a_kill_are_synced(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes rewritten before a kill are read after it, so the first flush syncs them."""
    inode = new_file(box.store, b"f", noise(100))
    box.store.flush(inode)
    box.store.commit()
    box.store.writes.write(inode, 0, noise(100, 1))
    store = box.crash()
    assert content_of(store, inode) == noise(100, 1)
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fdatasync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}"))
    )
    for _ in range(2):
        store.flush(inode)
    assert synced == [str(path) for path in store.staging.folder.iterdir()]


def test_files_that_no_row_mentions_go_when_a_store_is_opened(box: Box) -> None:
    """Opening deletes staging files without a row, and no others."""
    kept = new_file(box.store, b"kept", b"kept")
    box.store.flush(kept)
    box.store.commit()
    new_file(box.store, b"lost", b"lost")
    assert len(names_in(box.store.staging.folder)) == 2
    store = box.crash()
    assert len(names_in(store.staging.folder)) == 1
    assert content_of(store, kept) == b"kept"


def test_dropped_files_stay_until_the_commit(opened: Store) -> None:
    """Files of dropped windows stay until the commit has succeeded."""
    inode = new_file(opened, b"f", b"content")
    opened.flush(inode)
    opened.commit()
    ingest_file(opened, inode)
    commit = opened.commit_calls()
    next(commit)
    assert len(names_in(opened.staging.folder)) == 1
    commit.close()
    assert len(names_in(opened.staging.folder)) == 1
    opened.commit()
    assert names_in(opened.staging.folder) == set()


def test_a_row_is_dropped_with_its_own_window_only(tmp_path: Path) -> None:
    """Dropping an older window leaves the row of the window that replaced it."""
    index = Index(tmp_path)
    staging = Staging(tmp_path, index)
    inode = InodeNumber(7)
    staged = staging.adopt(StagedFile(inode, 0, 0, 0, size_floor=0))
    old = staging.window(staged, 3)
    staging.supersede(staged, old)
    new = staging.window(staged, 3)
    key = pair_key(inode, 3)
    with index.change():
        staging.record(inode, new, RangeSet([(3 * WINDOW, 3 * WINDOW + 1)]))
        staging.drop(staged, [old])
    assert index.get(Table.STAGED, key) is not None
    assert staging.deletes.drain() == [window_name(inode, 3, old.generation)]
    with index.change():
        staging.drop(staged, [new])
    assert index.get(Table.STAGED, key) is None
    staging.release(inode)
    index.close()


def test_a_copy_is_not_changed_by_writes() -> None:
    """A copy of the staged state keeps its ranges when the original changes."""
    window = Window(0, 1, RangeSet([(0, 10)]))
    staged = StagedFile(InodeNumber(7), 10, 0, 0, size_floor=0, windows={0: window})
    copy = staged.copy()
    window.ranges.add(10, 20)
    window.version += 1
    staged.windows[1] = Window(1, 2)
    assert list(copy.ranges()) == [(0, 10)]
    assert copy.windows[0].version == 0
