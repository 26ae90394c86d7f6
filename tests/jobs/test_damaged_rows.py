"""A damaged row of the index ends no job that works on the whole store."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from modelfs.errors import CorruptIndex, InvalidArgument, IsADirectory
from modelfs.jobs.inspect.file import report_on, state_of
from modelfs.jobs.repair.run import repair
from modelfs.store.index.tables import InodeNumber, PackId, Table, number_of
from modelfs.store.store import Store
from tests.support.damaged_rows import damage_row
from tests.support.derived_chunks import HALF, chunk_at, derive, halves, remove
from tests.support.run_jobs import collect, defragment, optimize, scrub
from tests.support.sample_store import copy_of
from tests.support.stores import CHUNK, check_closed, new_store, noise, stored_file

# A writer needs all rows of packs and all counters; two other tables of the sample are empty. The
# last row of a table may be met on another way than the first.
OTHERS: Final = (Table.META, Table.PACKS, Table.LOST, Table.BASE_ONLY)
ROWS: Final = (
    *((table, 0) for table in Table if table not in OTHERS),
    *((table, -1) for table in (Table.CHUNKS, Table.EXTENTS, Table.TENSORS, Table.PARENTS)),
)


def inspect_all(store: Store) -> None:
    """Inspect every file: those may fail whose own extents, tensors or chunks the row is of."""
    failures = 0
    for key in store.index.keys(Table.INODES):
        try:
            report_on(store, state_of(store, InodeNumber(number_of(key))))
        except (IsADirectory, InvalidArgument):
            continue
        except CorruptIndex:
            failures += 1
    assert failures <= 3


def optimize_again(store: Store) -> None:
    optimize(store, include_optimized=True)


def collect_much(store: Store) -> None:
    collect(store, 1.0)


@pytest.mark.parametrize(
    "job",
    [inspect_all, scrub, collect_much, defragment, optimize_again],
    ids=lambda job: job.__name__,
)
@pytest.mark.parametrize(("table", "number"), ROWS, ids=str)
def test_it_ends_no_job(
    filled: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    table: Table,
    number: int,
    job: Callable[[Store], object],
) -> None:
    """Of all chunks and files, those that need the damaged row are left as they are."""
    path = copy_of(filled, tmp_path)
    damage_row(path / "index", table, number)
    store = Store(path)
    try:
        job(store)
    finally:
        store.abandon()
    caplog.clear()


def test_a_digest_of_a_dead_chunk(
    filled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever digest's row is damaged, gc goes on, and removes the chunk if it is dead."""
    with Store(filled, read_only=True) as store:
        count = len([*store.index.keys(Table.HASHES)])
        dead = len([*store.index.keys(Table.DEAD)])
    assert dead
    dropped = 0
    for number in range(count):
        path = copy_of(filled, tmp_path / str(number))
        damage_row(path / "index", Table.HASHES, number)
        with Store(path) as store:
            collect(store)
            assert not [*store.index.keys(Table.DEAD)]
        dropped += "is damaged, and is dropped: " in caplog.text
        caplog.clear()
    assert dropped


@pytest.fixture(scope="module")
def with_garbage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with dead chunks, of which two derive from a file's chunk and a base-only one."""
    folder = new_store(tmp_path_factory.mktemp("garbage"))
    with Store(folder) as store:
        base, part, _ = halves(store, 2)
        held = chunk_at(store, stored_file(store, b"held", noise(CHUNK, 1)))
        of_held = chunk_at(store, stored_file(store, b"of_held", noise(CHUNK, 1)[:HALF]))
        derive(store, part, (base, 0, HALF))
        derive(store, of_held, (held, 0, HALF))
        store.packs.seal(PackId(1))
        stored_file(store, b"gone", noise(2 * CHUNK, 2))
        store.packs.seal(PackId(2))
        stored_file(store, b"kept", noise(2 * CHUNK, 3))
        remove(store, b"part0", b"part1", b"held", b"of_held", b"gone")
    return folder


@pytest.mark.parametrize("table", [Table.CHUNKS, Table.SOURCES, Table.DEPENDANTS, Table.DEAD])
def test_a_row_about_garbage(
    with_garbage: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, table: Table
) -> None:
    """Whichever row is damaged, a collection leaves one chunk or pack more at most.

    Fsck then finds the damaged row and nothing else, and a repair mends it.
    """
    with Store(with_garbage, read_only=True) as store:
        count = len([*store.index.keys(table)])
    for number in range(count):
        path = copy_of(with_garbage, tmp_path / str(number))
        key = damage_row(path / "index", table, number)
        damage = [*map(str, check_closed(path))]
        with Store(path) as store:
            for _ in range(2):  # as the daemon's, again and again
                collect(store)
            assert len([*store.index.keys(Table.DEAD)]) <= 1, key
            assert len([*store.reclaimer.packs()]) <= 2, key
        left = [*map(str, check_closed(path))]
        assert left in ([], damage), key
        repair(path)
        assert check_closed(path) == [], key
        caplog.clear()
