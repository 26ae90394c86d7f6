"""The hint tables of a store."""

from modelfs.jobs.hints import all_hints
from modelfs.store.index.tables import ROOT, Table
from modelfs.store.store import Store
from tests.support.run_jobs import collect
from tests.support.sample_store import Sample

HINT_TABLES = {Table.COPY_HINTS, Table.EXTERNAL_DATA, Table.SKETCHES}


def rows(store: Store) -> dict[Table, int]:
    return {table: sum(1 for _ in store.index.pages(table)) for table in HINT_TABLES}


def test_hints_of_files_that_are_there_stay(sample: Sample) -> None:
    """Every table of hints has rows of files that are there, and gc drops none of them."""
    collect(sample.store)  # some rows of the sample are stale
    assert {hints.TABLE for hints in all_hints(sample.store)} == HINT_TABLES
    before = rows(sample.store)
    assert all(before.values())
    collect(sample.store)
    assert rows(sample.store) == before
    assert sample.findings() == []


def test_no_hint_outlives_the_last_file(sample: Sample) -> None:
    """After all files are removed and collected, no table of hints has a row."""
    names = sample.store.namespace
    for folder in (sample.folder, ROOT):
        for _, name, inode in names.listing(folder, 0, 99):
            if inode == sample.folder:
                names.rmdir(ROOT, name)
            else:
                names.unlink(folder, name)
    collect(sample.store)
    assert rows(sample.store) == dict.fromkeys(HINT_TABLES, 0)
    assert sample.findings() == []
