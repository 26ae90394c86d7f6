"""Repair of staged windows: bytes that may be lost fail to read, and all others stay."""

import os
from pathlib import Path

import pytest

from modelfs.errors import CorruptData, LostBytes
from modelfs.jobs.check.fsck import check
from modelfs.jobs.repair.context import Outcome
from modelfs.jobs.repair.quarantine import FOLDER
from modelfs.jobs.repair.run import repair
from modelfs.store.disk.allocation import punch
from modelfs.store.folder import STAGING
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import WindowRanges
from modelfs.store.index.tables import Table, pair_key
from modelfs.store.store import Store
from tests.support.byte_damage import (
    PIECE,
    Contents,
    bytes_of,
    check_losses,
    files_of,
    lost_in,
    mend,
    unreadable,
)
from tests.support.damaged_rows import damage_row, flipped, raw_rows
from tests.support.ingest_regions import apply, begin_region
from tests.support.ingest_regions import run as run_region
from tests.support.kernel_writes import passed_file
from tests.support.run_jobs import ingest_all
from tests.support.sample_store import Sample
from tests.support.stores import (
    WINDOW,
    content_of,
    durable,
    names_in,
    new_file,
    new_store,
    noise,
    overwrite,
    staged_of,
)

STAGED = b"/staged"


def test_a_missing_staging_file_fails_to_read(sample: Sample, good: Contents) -> None:
    """Staged bytes that are gone are neither zeros nor what was there before."""
    sample.window.unlink()
    report = mend(sample)
    assert check_losses(files_of(sample.path), good, report) == {STAGED}
    with Store(sample.path) as store:
        store.writes.write(sample.staged, 0, bytes_of(good, STAGED))
        ingest_all(store)
    assert files_of(sample.path) == good
    assert lost_in(sample.path) == (0, 0)


def test_a_short_staging_file_keeps_its_beginning(sample: Sample, good: Contents) -> None:
    """What is left of a window is still read."""
    with sample.window.open("r+b") as file:
        file.truncate(50)
    report = mend(sample)
    assert check_losses(files_of(sample.path), good, report) == {STAGED}
    with Store(sample.path) as store:
        assert store.contents.read(sample.staged, 0, 50) == bytes_of(good, STAGED)[:50]


@pytest.mark.parametrize("how", ["junk", "bounds"])
def test_a_window_without_a_row_fails_to_read(sample: Sample, good: Contents, how: str) -> None:
    """What may have been staged in it is not known, so nothing of it is read; its file is kept."""
    ((key, _),) = sample.store.index.pages(Table.STAGED)
    window = sample.window
    row = WindowRanges(9, RangeSet([(1 << 40, 2 << 40)]))
    sample.put(Table.STAGED, key, b"junk!" if how == "junk" else row.to_bytes())
    report = mend(sample)
    assert check_losses(files_of(sample.path), good, report) == {STAGED}
    assert (sample.path / FOLDER / window.name).is_file()


def test_a_short_staging_file_without_a_row(sample: Sample, good: Contents) -> None:
    """Bytes behind its end fail to read, too: they are neither zeros nor older ones."""
    content = noise(4 * PIECE, 7)
    sample.store.close()
    with Store(sample.path) as store:
        store.writes.write(sample.staged, 0, content)
        store.flush(sample.staged)
    with Store(sample.path, recover=False) as store:
        ((key, _),) = store.index.pages(Table.STAGED)
        (window,) = store.staging.directory.names()
        with store.index.change():
            store.index.put(Table.STAGED, key, b"junk!")
        store.commit()
    os.truncate(sample.path / STAGING / window, PIECE + 5)
    report = repair(sample.path, data=True)
    assert [action.files for action in report.actions if STAGED in action.files]
    assert unreadable(sample.path, STAGED, content) == set(range(4))


def test_a_damaged_checksum_loses_its_window(tmp_path: Path) -> None:
    """Without their checksum, staged bytes may be wrong, and nothing shows it."""
    path = new_store(tmp_path)
    with Store(path) as store:
        inode = new_file(store, b"f", noise(5000))
    with raw_rows(path / "index") as rows:
        (key,) = (key for key in rows[Table.META] if key.startswith(b"staged."))
        rows[Table.META][key] = flipped(rows[Table.META][key], 3)
    overwrite(path / "staging" / next(iter(names_in(path / "staging"))), 100, b"damage")
    repair(path)
    with Store(path) as store:
        with pytest.raises(LostBytes):
            content_of(store, inode)
        store.writes.write(inode, 0, noise(5000))
        ingest_all(store)
        assert content_of(store, inode) == noise(5000)


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("number", range(4))
def test_a_damaged_row_of_a_whole_file(tmp_path: Path, number: int) -> None:
    """The file has the bytes of all its windows, so none of them are zeros, and none are lost."""
    path, data = new_store(tmp_path), noise(3 * WINDOW + 100)
    with Store(path) as store:
        inode = passed_file(store, b"f", data)
    assert damage_row(path / "index", Table.STAGED, number) == pair_key(inode, number)
    report = repair(path)
    assert report.left == 0
    assert {action.outcome for action in report.actions} == {Outcome.REPAIRED}
    with Store(path) as store:
        assert content_of(store, inode) == data
        ingest_all(store)
        assert content_of(store, inode) == data
        assert check(store, data=True) == []


@pytest.mark.usefixtures("windows")
def test_lost_bytes_of_a_whole_file_stay_lost(tmp_path: Path) -> None:
    """The row of a window is damaged, and that of its lost bytes is not."""
    path, data = new_store(tmp_path), noise(3 * WINDOW)
    store = Store(path)
    inode = passed_file(store, b"f", data)
    durable(store, inode)
    window = staged_of(store, inode).windows[1]
    with store.index.change():
        store.staging.rows.record(inode, window, RangeSet([(WINDOW + 10, WINDOW + 20)]))
    store.commit()
    store.abandon()
    damage_row(path / "index", Table.STAGED, 1)
    repair(path)
    with Store(path, read_only=True) as store:
        assert store.contents.read(inode, 0, WINDOW) == data[:WINDOW]
        with pytest.raises(LostBytes):
            store.contents.read(inode, WINDOW + 10, 10)
        assert store.contents.read(inode, 2 * WINDOW, WINDOW) == data[2 * WINDOW :]
        assert check(store, data=True) == []


@pytest.mark.usefixtures("windows")
def test_a_whole_file_that_was_cut_short(tmp_path: Path) -> None:
    """The bytes of the damaged row are lost: the size of the file does not follow the disk."""
    path, data = new_store(tmp_path), noise(3 * WINDOW)
    with Store(path) as store:
        inode = passed_file(store, b"f", data)
    damage_row(path / "index", Table.STAGED, 2)
    (name,) = names_in(path / STAGING)
    os.truncate(path / STAGING / name, 2 * WINDOW + 7)
    repair(path)
    with Store(path, read_only=True) as store:
        assert store.contents.read(inode, 0, 2 * WINDOW) == data[: 2 * WINDOW]
        with pytest.raises(LostBytes):
            store.contents.read(inode, 2 * WINDOW, WINDOW)
        assert store.contents.node(inode).size == 3 * WINDOW


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("number", range(3))
def test_a_damaged_row_of_a_divided_file(tmp_path: Path, number: int) -> None:
    """Whether the window became a hole is not known: it is lost, and its bytes stay in the file."""
    path, data = new_store(tmp_path), noise(3 * WINDOW)
    with Store(path) as store:
        inode = passed_file(store, b"f", data)
        durable(store, inode)
        assert store.staging.divide(staged_of(store, inode))
    damage_row(path / "index", Table.STAGED, number)
    (name,) = names_in(path / STAGING)
    repair(path)
    for _ in range(2):
        with Store(path) as store:
            for window in range(3):
                start = window * WINDOW
                if window == number:
                    with pytest.raises(LostBytes):
                        store.contents.read(inode, start, WINDOW)
                else:
                    expected = data[start : start + WINDOW]
                    assert store.contents.read(inode, start, WINDOW) == expected
            assert check(store, data=True) == []
        assert (path / STAGING / name).read_bytes() == data
    with Store(path) as store:
        store.writes.write(inode, 0, data)
        ingest_all(store)
        assert content_of(store, inode) == data


@pytest.mark.usefixtures("windows")
def test_a_damaged_row_beside_a_divided_file(tmp_path: Path) -> None:
    """A window with a file of its own keeps that: it goes to quarantine, and its bytes are lost."""
    path, data, new = new_store(tmp_path), noise(5 * WINDOW), noise(100, 5)
    store = Store(path)
    inode = passed_file(store, b"f", data)
    durable(store, inode)
    assert store.staging.divide(staged_of(store, inode))
    _, region = begin_region(store, inode)
    run_region(store, region)
    apply(store, region)
    store.commit()
    store.writes.write(inode, 0, new)
    durable(store, inode)
    store.abandon()
    damage_row(path / "index", Table.STAGED, 0)
    repair(path)
    (own,) = (path / FOLDER).glob(f"{inode:x}-0-*")
    assert own.read_bytes() == new
    with Store(path, read_only=True) as store:
        with pytest.raises(CorruptData):
            store.contents.read(inode, 0, 10)
        assert store.contents.read(inode, 3 * WINDOW, WINDOW) == data[3 * WINDOW : 4 * WINDOW]
        assert check(store, data=True) == []


@pytest.mark.usefixtures("windows")
def test_new_losses_are_added_to_those_that_were_known(tmp_path: Path) -> None:
    """Of a window of a divided file, whose disk lost ten bytes, a block becomes a hole."""
    path, data, block = new_store(tmp_path), noise(3 * WINDOW), 4096
    store = Store(path)
    inode = passed_file(store, b"f", data)
    durable(store, inode)
    assert store.staging.divide(staged_of(store, inode))
    window = staged_of(store, inode).windows[1]
    with store.index.change():
        store.staging.rows.record(inode, window, RangeSet([(WINDOW + 10, WINDOW + 20)]))
    store.commit()
    store.abandon()
    (name,) = names_in(path / STAGING)
    with (path / STAGING / name).open("r+b") as file:
        punch(file.fileno(), WINDOW + block, WINDOW + 2 * block)
    repair(path)
    with Store(path, read_only=True) as store:
        for start in (WINDOW + 10, WINDOW + block):
            with pytest.raises(LostBytes):
                store.contents.read(inode, start, 10)
        assert store.contents.read(inode, WINDOW + 20, 100) == data[WINDOW + 20 : WINDOW + 120]
        assert check(store, data=True) == []
