"""The hint tables of a store."""

import pytest

from modelfs.jobs.hints import all_hints
from modelfs.jobs.ingest.copies import copy_key
from modelfs.store.index.tables import ROOT, Table
from modelfs.store.store import Store
from tests.support.run_jobs import collect, ingest_all
from tests.support.sample_store import Sample
from tests.support.stores import content_of, new_file

HINT_TABLES = {Table.COPY_HINTS, Table.EXTERNAL_DATA, Table.SKETCHES}


def rows(store: Store) -> dict[Table, int]:
    return {table: sum(1 for _ in store.index.pages(table)) for table in HINT_TABLES}


def test_hints_of_files_that_are_there_stay(sample: Sample) -> None:
    """Every table of hints has rows of files that are there, and gc drops none of them."""
    collect(sample.store)  # some rows of the sample are stale
    assert {hints.table for hints in all_hints(sample.store)} == HINT_TABLES
    before = rows(sample.store)
    assert all(before.values())
    collect(sample.store)
    assert rows(sample.store) == before
    assert sample.findings() == []


def test_no_hint_outlives_the_last_file(sample: Sample) -> None:
    """After all files are removed and collected, no table of hints has a row."""
    names = sample.store.namespace
    for folder in (sample.folder, ROOT):
        for _, name, inode in sample.store.dentries.listing(folder, 0, 99):
            if inode == sample.folder:
                names.rmdir(ROOT, name)
            else:
                names.unlink(folder, name)
    collect(sample.store)
    assert rows(sample.store) == dict.fromkeys(HINT_TABLES, 0)
    assert sample.findings() == []


# Keys that are too short or too long, with a NUL in a name, or of an inode that no store has.
DAMAGED = [
    (Table.COPY_HINTS, b"x" * 20, b""),
    (Table.COPY_HINTS, b"x" * 33, b""),
    (Table.COPY_HINTS, b"x" * 32, b"value"),
    (Table.EXTERNAL_DATA, b"x" * 5, b""),
    (Table.EXTERNAL_DATA, b"x" * 20, b""),
    (Table.SKETCHES, b"x" * 5, b""),
    (Table.SKETCHES, b"\xff" * 29, b""),
]


@pytest.mark.parametrize(("table", "key", "value"), DAMAGED, ids=repr)
def test_gc_drops_damaged_hints(
    opened: Store, caplog: pytest.LogCaptureFixture, table: Table, key: bytes, value: bytes
) -> None:
    """Gc drops a damaged row of each table of hints, logs that, and goes on."""
    with opened.index.change():
        opened.index.put(table, key, value)
    collect(opened)
    assert rows(opened)[table] == 0
    assert f"a damaged row of {table.value} is dropped" in caplog.text


def test_a_damaged_copy_hint_keeps_files_staged_until_gc(
    opened: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Ingest reports a copy hint of a wrong length as damage, and works again after gc."""
    seed = opened.superblock.hash_seed
    key = copy_key(lambda start, stop: bytes(stop - start), 100_000, seed)
    assert key is not None
    with opened.index.change():
        opened.index.put(Table.COPY_HINTS, key + bytes(9), b"")
    inode = new_file(opened, b"zeros", bytes(100_000))
    ingest_all(opened)
    assert f"file {inode} cannot be ingested: 33 bytes where 32 belong" in caplog.text
    collect(opened)
    ingest_all(opened)
    assert opened.staging.find(inode) is None
    assert content_of(opened, inode) == bytes(100_000)
