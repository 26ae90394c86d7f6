"""The quarantine: nothing that it keeps is ever overwritten."""

import json
from pathlib import Path

from modelfs.jobs.repair.quarantine import FOLDER, ROWS, Quarantine
from modelfs.store.disk.directory import Directory
from modelfs.store.index.tables import Table


def test_nothing_to_keep_makes_no_folder(tmp_path: Path) -> None:
    """A repair that sets nothing aside leaves no folder."""
    quarantine = Quarantine(Directory(tmp_path))
    quarantine.flush()
    quarantine.add_file(Directory(tmp_path), "gone meanwhile")
    quarantine.move_files()
    assert (list(tmp_path.iterdir()), quarantine.content()) == ([], (0, 0))


def test_an_earlier_repairs_files_are_kept(tmp_path: Path) -> None:
    """Contents, moved files and copies of one name get names of their own."""
    for number in range(2):
        folder = Directory(tmp_path)
        quarantine = Quarantine(folder)
        (tmp_path / "pack").write_text(f"moved {number}")
        (tmp_path / "copy").write_text(f"copied {number}")
        quarantine.copy(folder, "copy")
        quarantine.add_content("chunk-7", b"content %d" % number)
        quarantine.add_file(folder, "pack")
        quarantine.flush()
        assert (tmp_path / "pack").exists()  # until the commit that mentions it no more
        quarantine.move_files()
        assert not (tmp_path / "pack").exists()
    found = {path.name: path.read_text() for path in (tmp_path / FOLDER).iterdir()}
    assert found == {
        "pack": "moved 0",
        "pack.1": "moved 1",
        "copy": "copied 0",
        "copy.1": "copied 1",
        "chunk-7": "content 0",
        "chunk-7.1": "content 1",
    }
    assert quarantine.content() == (6, sum(map(len, found.values())))


def test_rows_are_appended(tmp_path: Path) -> None:
    """Rows of all repairs are in one file, each with its table, key, value and reason."""
    for key in (b"\1", b"\2"):
        quarantine = Quarantine(Directory(tmp_path))
        quarantine.add_row(Table.CHUNKS, key, b"\xff", "damaged")
        quarantine.flush()
        quarantine.flush()
    lines = (tmp_path / FOLDER / ROWS).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row.pop("at") > 0 for row in rows] == [True, True]
    assert rows == [
        {"table": Table.CHUNKS.value, "key": key, "value": "ff", "why": "damaged"}
        for key in ("01", "02")
    ]
