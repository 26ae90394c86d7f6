"""An interrupted repair that has lost commits: only repair opens the store, and none forgets it."""

from pathlib import Path

import pytest

from modelfs.errors import CorruptIndex, StoreFull
from modelfs.jobs.repair.quarantine import FOLDER
from modelfs.jobs.repair.run import Outcome, RepairReport, repair
from modelfs.jobs.repair.unfinished import LossNote, unfinished_repair_findings
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import UNFINISHED
from modelfs.store.index.tables import Table
from modelfs.store.store import Store
from tests.support.byte_damage import Contents, files_of
from tests.support.index_pages import SIZE, data_file, walk_of
from tests.support.meta_fields import forget_records, last_meta, wipe
from tests.support.stores import overwrite


def kept(store: Path) -> set[str]:
    """Return the names of all staging files, wherever they are."""
    folders = [store / "staging", store / FOLDER]
    return {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}


def interrupt(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repair a store until its index can be opened, and no further."""

    def end(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("modelfs.jobs.repair.run.fsck", end)
        with pytest.raises(KeyboardInterrupt):
            repair(store)


def losses(report: RepairReport) -> set[str]:
    return {each.message for each in report.actions if each.outcome is Outcome.QUARANTINED}


def test_files_of_a_lost_commit_outlive_an_interruption(
    closed: Path, good: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next repair sets them aside, and reports the loss; until then the store stays closed."""
    path = data_file(closed)
    staged = {each.name for each in (closed / "staging").iterdir()}
    forget_records(path)
    wipe(path, last_meta(path).transaction & 1)
    interrupt(closed, monkeypatch)
    for read_only in (False, True):
        with pytest.raises(CorruptIndex, match="has not finished"):
            Store(closed, read_only=read_only)
    assert staged <= kept(closed)
    report = repair(closed)
    assert any("changes of a later commit" in message for message in losses(report))
    assert {finding.invariant for finding in report.found} >= {"repair"}
    assert report.after.findings == []
    assert files_of(closed) == good
    assert staged <= kept(closed)
    assert not (closed / UNFINISHED).exists()
    assert repair(closed).found == []


def test_the_note_alone_is_a_finding(closed: Path) -> None:
    """A store with a note has one finding more than the same store without it."""
    folder = Directory(closed)
    assert unfinished_repair_findings(folder) == []
    LossNote(folder).add("a loss")
    (finding,) = unfinished_repair_findings(folder)
    assert finding.invariant == "repair"
    assert "has not finished" in finding.message
    LossNote(folder).remove()
    assert unfinished_repair_findings(folder) == []


def test_a_salvage_outlives_an_interruption(
    closed: Path, good: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are found in packs are found after it, too, and no staged byte is removed."""
    staged = {each.name for each in (closed / "staging").iterdir()}
    (leaf,) = walk_of(data_file(closed)).leaves[Table.STAGED]
    overwrite(data_file(closed), leaf.number * SIZE, bytes(SIZE))
    interrupt(closed, monkeypatch)
    with pytest.raises(CorruptIndex, match="has not finished"):
        Store(closed)
    report = repair(closed)
    assert any("in a new one" in message for message in losses(report))
    assert report.after.findings == []
    files = files_of(closed)
    assert {name for name, data in files.items() if data is None} == {b"/acknowledged", b"/staged"}
    assert files == {**good, b"/acknowledged": None, b"/staged": None}
    assert staged <= kept(closed)


def test_a_note_without_a_line_is_removed(closed: Path) -> None:
    """A process that ended before the line was written has lost nothing."""
    (closed / UNFINISHED).touch()
    report = repair(closed)
    assert (losses(report), report.after.findings) == (set(), [])
    with Store(closed):
        pass


def test_no_note_without_a_change(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the damaged file cannot be kept, the index is as it was, and no loss is noted."""

    def full(*_: object) -> None:
        raise StoreFull("no room")

    path = data_file(closed)
    forget_records(path)
    wipe(path, last_meta(path).transaction & 1)
    before = path.read_bytes()
    monkeypatch.setattr("modelfs.jobs.repair.quarantine.Quarantine.copy", full)
    with pytest.raises(StoreFull):
        repair(closed)
    assert path.read_bytes() == before
    assert not (closed / UNFINISHED).exists()


def test_the_note_has_each_loss_once(tmp_path: Path) -> None:
    """Repairs that are interrupted again and again do not report a loss twice."""
    store = Directory(tmp_path)
    note = LossNote(store)
    assert note.losses == []
    for loss in ("one", "two", "one"):
        note.add(loss)
    again = LossNote(store)
    again.add("two")
    assert again.losses == ["one", "two"] == (tmp_path / UNFINISHED).read_text().splitlines()
    again.remove()
    again.remove()
    assert LossNote(store).losses == []
