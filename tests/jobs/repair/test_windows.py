"""Repair of staged windows: bytes that may be lost fail to read, and all others stay."""

import os
from pathlib import Path

import pytest

from modelfs.errors import LostBytes
from modelfs.jobs.repair.quarantine import FOLDER
from modelfs.jobs.repair.run import repair
from modelfs.store.folder import STAGING
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import WindowRanges
from modelfs.store.index.tables import Table
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
from tests.support.damaged_rows import flipped, raw_rows
from tests.support.run_jobs import ingest_all
from tests.support.sample_store import Sample
from tests.support.stores import content_of, names_in, new_file, new_store, noise, overwrite

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
