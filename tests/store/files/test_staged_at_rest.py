"""Staged bytes between two sessions, and their checksums."""

import dataclasses
from pathlib import Path

import pytest

from modelfs.errors import CorruptData, CorruptIndex
from modelfs.jobs.check.fsck import check, fsck
from modelfs.jobs.repair.run import repair
from modelfs.store.files import staged_at_rest
from modelfs.store.files.staged_checksums import windows_with_checksums
from modelfs.store.index.counters import STAGED_CHECKSUM
from modelfs.store.index.tables import ROOT, Table
from modelfs.store.store import Store
from tests.support.run_jobs import collect, ingest_all
from tests.support.stores import WINDOW, Box, content_of, new_file, new_store, noise, overwrite

DATA = noise(3 << 20, 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store that was closed in order, with staged bytes."""
    path = new_store(tmp_path)
    with Store(path) as store:
        new_file(store, b"a", DATA)
    return path


def file_of(path: Path) -> Path:
    """Return the only staging file."""
    (file,) = (path / "staging").iterdir()
    return file


def read(store: Store) -> bytes:
    return content_of(store, store.namespace.lookup(ROOT, b"a"))


def test_a_row_has_a_checksum_while_the_store_is_closed(path: Path) -> None:
    """It is there at the end, and gone from the index when a process may write again."""
    with Store(path, read_only=True) as store:
        assert len(windows_with_checksums(store.index)) == 1
        assert read(store) == DATA
    Store(path).abandon()  # the kill of a process that did nothing yet
    with Store(path, read_only=True) as store:
        assert windows_with_checksums(store.index) == []
        assert read(store) == DATA


@pytest.mark.usefixtures("windows")
def test_each_window_has_a_checksum(tmp_path: Path) -> None:
    """A window behind the first one has a checksum of its own bytes."""
    path = new_store(tmp_path)
    with Store(path) as store:
        new_file(store, b"a", noise(2 * WINDOW + 10))
    with Store(path, read_only=True) as store:
        assert len(windows_with_checksums(store.index)) == 3
        assert check(store, data=True) == []


def test_damaged_bytes_are_lost(path: Path) -> None:
    """A flipped byte is found at the next opening: reads fail, until the bytes come again."""
    overwrite(file_of(path), 5000, b"damaged")
    with Store(path, read_only=True) as store, pytest.raises(CorruptData):
        read(store)
    for _ in range(2):  # it is recorded
        store = Store(path)
        with pytest.raises(CorruptData):
            read(store)
        assert store.inventory.statistics().lost_bytes == len(DATA)
        store.abandon()
    with Store(path, read_only=True) as store:
        assert fsck(store).lost.impact.files == {b"/a": None}
    with Store(path) as store:
        store.writes.write(store.namespace.lookup(ROOT, b"a"), 0, DATA)
        assert read(store) == DATA
        ingest_all(store)
        assert read(store) == DATA
        assert check(store, data=True) == []


def test_fsck_finds_and_repairs_it(path: Path) -> None:
    """With its data, a check names the file, and a repair records that the bytes are lost."""
    overwrite(file_of(path), 5000, b"damaged")
    with Store(path, read_only=True) as store:
        assert check(store) == []
        (finding,) = check(store, data=True)
    assert (finding.invariant, finding.files) == ("staged", (b"/a",))
    report = repair(path, data=True)
    assert report.after.findings == []
    assert report.after.lost.bytes == len(DATA)
    with Store(path) as store, pytest.raises(CorruptData):
        read(store)


def test_a_crash_leaves_newer_bytes(path: Path) -> None:
    """Bytes that were rewritten before a crash are as they were written, and not damage."""
    store = Store(path)
    store.writes.write(store.namespace.lookup(ROOT, b"a"), 100, b"newer")
    store.abandon()
    with Store(path) as store:
        assert read(store) in (DATA, DATA[:100] + b"newer" + DATA[105:])
        assert check(store, data=True) == []


def test_a_missing_file_is_no_mismatch(path: Path) -> None:
    """A file that is gone or cut short has the finding that it had before."""
    file = file_of(path)
    with file.open("r+b") as opened:
        opened.truncate(1 << 20)
    with Store(path, read_only=True) as store:
        assert {finding.invariant for finding in check(store, data=True)} == {"window"}
    file.unlink()
    with Store(path, read_only=True) as store:
        assert {finding.invariant for finding in check(store, data=True)} == {"window"}


def test_a_part_of_a_window_proves_nothing(path: Path) -> None:
    """Of a file that was cut, the bytes that are left cannot be compared: all are lost."""
    file = file_of(path)
    overwrite(file, 5000, b"damaged")
    with file.open("r+b") as opened:
        opened.truncate(1 << 20)
    assert repair(path).after.findings == []
    with Store(path) as store, pytest.raises(CorruptData):
        read(store)
    assert (path / "quarantine" / file.name).is_file()


def test_too_many_bytes_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a session does not wait for more than a limit of bytes."""
    monkeypatch.setattr(staged_at_rest, "BYTES_MAX", 1 << 20)
    path = new_store(tmp_path)
    with Store(path) as store:
        new_file(store, b"a", DATA)
    with Store(path, read_only=True) as store:
        assert windows_with_checksums(store.index) == []
        assert read(store) == DATA


@pytest.mark.parametrize("is_counted", [True, False])
def test_a_checksum_that_is_gone(box: Box, *, is_counted: bool) -> None:
    """The disk may have an older page of the index: then the file's staged content is not known.

    The totals of some stores of before the release count no checksums.
    """
    inode = new_file(box.store, b"a", noise(100))
    box.store.close()
    with Store(box.path, recover=False) as store:
        (key,) = windows_with_checksums(store.index)
        node = store.inodes.get(inode)
        assert node.staging_rows == 2
        with store.index.change():
            if is_counted:
                store.index.delete(Table.META, STAGED_CHECKSUM + key)
            else:
                store.inodes.put(dataclasses.replace(node, staging_rows=1))
        store.index.commit()
        store.abandon()
    with Store(box.path, read_only=True) as reader:
        findings = [finding.invariant for finding in check(reader)]
        assert findings == (["staging-rows"] if is_counted else [])
    box.store = store = Store(box.path)
    if not is_counted:
        assert content_of(store, inode) == noise(100)
        assert store.inodes.get(inode).staging_rows == 1
        return
    with pytest.raises(CorruptIndex):
        store.contents.read(inode, 0, 100)
    store.namespace.unlink(ROOT, b"a")
    collect(store)
