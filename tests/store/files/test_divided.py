"""Holes of divided files: rows of an older commit do not make them bytes."""

from pathlib import Path

import pytest

from modelfs.errors import LostBytes
from modelfs.jobs.check.fsck import check
from modelfs.jobs.repair.run import repair
from modelfs.store.disk.directory import Directory
from modelfs.store.files.divided import holes_of
from modelfs.store.files.window import DIVIDED, WHOLE, window_name
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import WindowRanges
from modelfs.store.index.tables import pair_key
from modelfs.store.store import Store
from tests.support.index_pages import data_file
from tests.support.ingest_regions import apply, begin_region, run
from tests.support.kernel_writes import passed_file
from tests.support.meta_fields import forget_records, last_meta, wipe
from tests.support.run_jobs import ingest_all
from tests.support.stores import WINDOW, content_of, durable, new_store, noise, staged_of

BLOCK = 4096


@pytest.mark.parametrize(
    ("generation", "holes"),
    [(WHOLE | DIVIDED, [(BLOCK, 2 * BLOCK), (4 * BLOCK, 4 * BLOCK + 50)]), (WHOLE, []), (0, [])],
)
def test_holes(tmp_path: Path, generation: int, holes: list[tuple[int, int]]) -> None:
    """Of a file with data in blocks 0, 2 and 3; only those of a divided one are holes of a row."""
    with (tmp_path / window_name(5, 0, generation + 1)).open("wb") as file:
        file.write(b"x" * BLOCK)
        file.seek(2 * BLOCK)
        file.write(b"x" * 2 * BLOCK)
    row = WindowRanges(generation + 1, RangeSet([(10, 4 * BLOCK + 50)]))
    assert [*holes_of(Directory(tmp_path), pair_key(5, 0), row)] == holes


def test_a_missing_file(tmp_path: Path) -> None:
    """Its reads fail, so it needs no holes."""
    row = WindowRanges(WHOLE | DIVIDED, RangeSet([(0, 10)]))
    assert not holes_of(Directory(tmp_path), pair_key(5, 0), row)


@pytest.mark.usefixtures("windows")
def test_an_older_commit_brings_no_zeros(tmp_path: Path) -> None:
    """If the index goes back behind a hole, its bytes are lost, and repair names the file."""
    data, path = noise(5 * WINDOW + 100), new_store(tmp_path)
    store = Store(path)
    inode = passed_file(store, b"f", data)
    durable(store, inode)
    assert store.staging.divide(staged_of(store, inode))
    store.commit()
    _, region = begin_region(store, inode)
    run(store, region)
    apply(store, region)
    store.commit()
    store.abandon()
    index = data_file(path)
    page = last_meta(index).transaction & 1
    forget_records(index)
    wipe(index, page)
    report = repair(path, data=True)
    assert b"/f" in {file for action in report.actions for file in action.files}
    with Store(path, read_only=True) as store:
        assert check(store, data=True) == []
        with pytest.raises(LostBytes):
            content_of(store, inode)
        assert store.contents.read(inode, 2 * WINDOW, WINDOW) == data[2 * WINDOW : 3 * WINDOW]
    with Store(path) as store:
        store.writes.write(inode, 0, data)
        ingest_all(store)
        assert content_of(store, inode) == data
