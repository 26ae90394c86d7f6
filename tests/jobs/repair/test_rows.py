"""Repair of single rows: those that do not decode, and those of inodes that do not exist."""

import dataclasses
import json
from typing import Final

import pytest

from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.quarantine import FOLDER, ROWS
from modelfs.jobs.repair.rows import remove_ownerless, repair_superblock
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Inode, WindowRanges
from modelfs.store.index.superblock import FORMAT_VERSION, SUPERBLOCK
from modelfs.store.index.tables import (
    InodeNumber,
    Table,
    number_key,
    pair_key,
    request_value,
)
from modelfs.store.store import Store
from tests.support.row_changes import lost, mended, repaired, rows_in
from tests.support.run_jobs import ingest_all
from tests.support.sample_store import BASE, Sample

JUNK: Final = b"junk!"
NOBODY: Final = InodeNumber(1000)


def quarantined_rows(sample: Sample) -> list[tuple[str, str, str]]:
    """Return table, value and reason of the rows in quarantine."""
    lines = (sample.path / FOLDER / ROWS).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row["table"], row["value"], row["why"]) for row in rows]


# -- rows that do not decode


@pytest.mark.parametrize("table", [Table.HASHES, Table.DEAD, Table.LISTING, Table.PARENTS])
def test_a_row_that_other_tables_have_is_restored(sample: Sample, table: Table) -> None:
    """The junk is in quarantine with its reason, and the table has the right row again."""
    before = rows_in(sample.store)
    key, _ = next(sample.store.index.pages(table))
    sample.put(table, key, JUNK)
    done = repaired(sample, before)
    assert done.changes == {}
    message = f"rows of the table {table.value} that cannot be read, set aside: 1"
    assert done.actions[0] == mended(message)
    assert quarantined_rows(sample) == [(table.value, JUNK.hex(), "it does not decode")]


def test_a_lost_attribute_is_named_with_its_file(sample: Sample) -> None:
    """Rows of attributes are nowhere else: the repair names the file, and changes no other row."""
    before = rows_in(sample.store)
    sample.put(Table.XATTRS, number_key(sample.text), b"an attribute without a name")
    done = repaired(sample, before)
    assert done.changes == {}
    message = "rows of the table xattrs that cannot be read, set aside: 1"
    assert done.actions == [lost(message, b"/folder/text")]


@pytest.mark.parametrize("table", [Table.XATTRS, Table.TENSORS, Table.SYMLINKS])
def test_a_key_that_is_too_short_names_no_file(sample: Sample, table: Table) -> None:
    """The first bytes of a damaged key are no inode, although their number is that of one."""
    before = rows_in(sample.store)
    sample.put(table, bytes([sample.text]), JUNK)
    done = repaired(sample, before)
    assert done.changes == {}
    message = f"rows of the table {table.value} that cannot be read, set aside: 1"
    assert done.actions == [lost(message)]


def test_a_tensor_whose_row_is_junk_is_found_again(sample: Sample) -> None:
    """The row is set aside, and the file queued for ingest, which makes it again."""
    before = rows_in(sample.store)
    ((key, good),) = list(sample.store.index.pages(Table.TENSORS))[:1]
    sample.put(Table.TENSORS, key, JUNK)
    done = repaired(sample, before)
    message = "rows of the table tensors that cannot be read, set aside: 1"
    assert lost(message, BASE) in done.actions
    assert done.changes.pop((Table.TENSORS, key)) is None
    node = done.changes.pop((Table.INODES, number_key(sample.base)))
    request = done.changes.pop((Table.PENDING, number_key(sample.base)))
    assert done.changes == {}
    assert node is not None
    assert request is not None
    old = Inode.from_bytes(sample.base, before[Table.INODES, number_key(sample.base)])
    fewer = dataclasses.replace(old, tensor_rows=old.tensor_rows - 1)
    assert Inode.from_bytes(sample.base, node) == fewer
    with Store(sample.path) as store:
        ingest_all(store)
        assert store.index.get(Table.TENSORS, key) == good


def test_a_file_in_the_optimizers_queue_is_queued_again(sample: Sample) -> None:
    """A row of the queue that is junk is made again, with a request of its own."""
    before = rows_in(sample.store)
    key, _ = next(sample.store.index.pages(Table.TO_OPTIMIZE))
    sample.put(Table.TO_OPTIMIZE, key, JUNK)
    done = repaired(sample, before)
    assert [*done.changes] == [(Table.TO_OPTIMIZE, key)]
    value = done.changes[Table.TO_OPTIMIZE, key]
    assert value is not None
    assert len(value) == len(request_value())
    assert done.actions == [
        mended(f"rows of the table {Table.TO_OPTIMIZE.value} that cannot be read, set aside: 1")
    ]


@pytest.mark.parametrize("name", ["short", "folder", "nobody"])
def test_rows_of_no_file_queue_nothing(sample: Sample, name: str) -> None:
    """A junk row of the queue that is not of a regular file goes without another one."""
    before = rows_in(sample.store)
    key = {
        "short": bytes([sample.text]),
        "folder": number_key(sample.folder),
        "nobody": number_key(NOBODY),
    }[name]
    sample.put(Table.TO_OPTIMIZE, key, JUNK)
    assert repaired(sample, before).changes == {}


def test_many_junk_rows_of_a_table_are_one_repair(sample: Sample) -> None:
    """The report has a line for the table, and the quarantine each row."""
    before = rows_in(sample.store)
    keys = [key for key, _ in sample.store.index.pages(Table.HASHES)][:3]
    for key in keys:
        sample.put(Table.HASHES, key, JUNK)
    done = repaired(sample, before)
    assert done.changes == {}
    assert done.actions[0] == mended("rows of the table hashes that cannot be read, set aside: 3")
    assert len(quarantined_rows(sample)) == 3


# -- the superblock


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, 200])
def test_the_superblock_has_a_known_version_again(sample: Sample, version: int) -> None:
    """A store of no known format is one of this version's, with its seed and its other rows."""
    before = rows_in(sample.store)
    block = dataclasses.replace(sample.store.superblock, version=version)
    sample.put(Table.META, SUPERBLOCK, block.to_bytes())
    done = repaired(sample, before)
    assert done.actions == [mended(f"the superblock has the format {FORMAT_VERSION} again")]
    assert done.changes == {}


def test_a_known_version_is_left_alone(context: RepairContext, sample: Sample) -> None:
    """Without damage of the superblock there is no repair of it."""
    repair_superblock(context)
    assert context.actions == []
    assert sample.store.superblock.version == FORMAT_VERSION


# -- rows without an inode


@pytest.mark.parametrize(
    "table",
    [Table.XATTRS, Table.PENDING, Table.TO_OPTIMIZE, Table.TRIMS, Table.TENSORS],
)
def test_rows_of_an_inode_that_does_not_exist_are_set_aside(sample: Sample, table: Table) -> None:
    """Such a row is in quarantine, and nothing else is changed.

    Staged bytes are content, for which an inode is made: see `test_inodes`.
    """
    before = rows_in(sample.store)
    key, value = next(sample.store.index.pages(table))
    sample.put(table, number_key(NOBODY) + key[8:], value)
    done = repaired(sample, before)
    assert done.changes == {}
    assert done.actions == [lost(f"a row of {table.value} of inode {NOBODY}: set aside")]
    assert quarantined_rows(sample) == [(table.value, value.hex(), "it belongs to no inode")]


@pytest.mark.parametrize("table", [Table.TRIMS, Table.TENSORS, Table.STAGED])
def test_rows_that_only_files_have_are_set_aside(sample: Sample, table: Table) -> None:
    """A folder has no content: rows about some go, and its attributes stay."""
    sample.store.attributes.put(sample.folder, b"user.kept", b"value")
    before = rows_in(sample.store)
    key, value = next(sample.store.index.pages(table))
    sample.put(table, number_key(sample.folder) + key[8:], value)
    done = repaired(sample, before)
    assert done.changes == {}
    assert done.actions == [lost(f"a row of {table.value} of inode {sample.folder}: set aside")]


def test_a_staging_file_goes_with_its_row(context: RepairContext, sample: Sample) -> None:
    """Bytes staged for an inode that cannot have any are kept in quarantine."""
    row = WindowRanges(7, RangeSet([(0, 10)]))
    sample.store.index.put(Table.STAGED, pair_key(sample.folder, 0), row.to_bytes())
    name = f"{sample.folder:x}-0-7"
    (sample.store.staging.directory.path / name).write_bytes(b"0123456789")
    remove_ownerless(context)
    context.quarantine.move_files()
    assert (sample.path / FOLDER / name).read_bytes() == b"0123456789"
    assert not (sample.store.staging.directory.path / name).exists()
    assert sample.store.index.get(Table.STAGED, pair_key(sample.folder, 0)) is None
