"""Files with missing rows: the loss is reported once, and the totals are those of the rows."""

import dataclasses
from typing import Final

import pytest

from modelfs.errors import CorruptData
from modelfs.jobs.repair.context import Action, Outcome, RepairContext
from modelfs.jobs.repair.inode_totals import (
    lose_incomplete_files,
    recount_totals_of_inodes,
    report_missing_rows,
)
from modelfs.jobs.repair.quarantine import FOLDER
from modelfs.store.files.inode_totals import Totals
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.counters import STAGED_CHECKSUM
from modelfs.store.index.tables import (
    InodeNumber,
    Table,
    named_key,
    number_key,
    pair_key,
)
from modelfs.store.store import Store
from tests.support.byte_damage import Contents, bytes_of, check_losses, files_of, mend
from tests.support.row_changes import lost, mended, repaired, rows_in
from tests.support.run_jobs import ingest_all
from tests.support.sample_store import BASE, Sample
from tests.support.stores import content_of

STAGED: Final = b"/staged"
TEXT: Final = b"/folder/text"
JUNK: Final = b"junk!"


def delete_staged(sample: Sample) -> str:
    """Delete the row of the staged window, and return the name of its file."""
    ((key, _),) = sample.store.index.pages(Table.STAGED)
    name = sample.window.name
    sample.delete(Table.STAGED, key)
    return name


def totals(sample: Sample, inode: InodeNumber) -> Totals:
    return Totals.of(sample.node(inode))


def miscount(sample: Sample, inode: InodeNumber, **more: int) -> None:
    """Add to the totals in an inode's record."""
    node = sample.node(inode)
    changed = {name: getattr(node, name) + number for name, number in more.items()}
    sample.put_node(dataclasses.replace(node, **changed))


# -- staged content


def test_a_file_without_a_row_of_its_window_is_lost(sample: Sample, good: Contents) -> None:
    """Its newest bytes are nowhere, so all of it fails to read until it is written again."""
    delete_staged(sample)
    report = mend(sample)
    message = f"inode {sample.staged}: all bytes are lost, rows of staged content are missing"
    assert lost(message, STAGED) in report.actions
    assert check_losses(files_of(sample.path), good, report) == {STAGED}
    with Store(sample.path) as store:
        store.writes.write(sample.staged, 0, bytes_of(good, STAGED))
        ingest_all(store)
        assert content_of(store, sample.staged) == good[STAGED]


def test_other_windows_of_the_file_are_set_aside(context: RepairContext, sample: Sample) -> None:
    """Bytes of windows that are there may be older than those that are lost: none is read."""
    store = sample.store
    name = sample.window.name
    miscount(sample, sample.staged, staging_rows=1)
    size = sample.node(sample.staged).size
    lose_incomplete_files(context)
    (action,) = context.actions
    assert (action.outcome, action.files) == (Outcome.QUARANTINED, (STAGED,))
    assert store.index.get(Table.STAGED, pair_key(sample.staged, 0)) is None
    assert sum(extent.length for extent in sample.extents(sample.staged)) == size
    assert all(store.chunks.record(each.chunk).is_lost for each in sample.extents(sample.staged))
    context.quarantine.move_files()
    assert (sample.path / FOLDER / name).is_file()


def test_a_truncation_of_the_file_goes_with_it(context: RepairContext, sample: Sample) -> None:
    """The row of a cut is set aside, too, and the file is lost up to its end."""
    miscount(sample, sample.cut, staging_rows=1)
    lose_incomplete_files(context)
    assert sample.store.index.get(Table.TRIMS, number_key(sample.cut)) is None
    extents = [each for each in sample.extents(sample.cut) if each.start < 10]
    assert [(each.start, each.stop) for each in extents] == [(0, 10)]
    with pytest.raises(CorruptData):
        sample.store.chunk_reader.read_current(extents[0].chunk)


def test_the_tensors_of_a_lost_file_are_named(context: RepairContext, sample: Sample) -> None:
    """The report has every tensor of the file once."""
    names = [span.name for span in TensorTable(sample.store.index).spans(sample.base)]
    miscount(sample, sample.base, staging_rows=2)
    lose_incomplete_files(context)
    (action,) = context.actions
    assert action.files == (BASE,)
    assert sorted(action.tensors) == sorted(names)


@pytest.mark.parametrize("more", [0, -1])
def test_a_file_with_all_rows_keeps_its_bytes(
    context: RepairContext, sample: Sample, more: int
) -> None:
    """A record that counts as many rows as there are, or fewer, shows no loss."""
    before = rows_in(sample.store)
    if more:
        node = sample.node(sample.staged)
        miscount(sample, sample.staged, staging_rows=-node.staging_rows)
    lose_incomplete_files(context)
    assert context.actions == []
    after = rows_in(sample.store)
    inode = Table.INODES, number_key(sample.staged)
    assert after | {inode: b""} == before | {inode: b""}


def test_a_broken_row_in_its_place_is_no_missing_one(sample: Sample, good: Contents) -> None:
    """A window whose row is junk is lost by itself: the report has no other loss of the file."""
    ((key, _),) = sample.store.index.pages(Table.STAGED)
    sample.put(Table.STAGED, key, JUNK)
    report = mend(sample)
    assert not any("all bytes are lost" in action.message for action in report.actions)
    assert check_losses(files_of(sample.path), good, report) == {STAGED}


def test_a_broken_checksum_in_its_place_is_no_missing_row(
    context: RepairContext, sample: Sample
) -> None:
    """A checksum of staged bytes that does not decode is counted as a row that is there."""
    miscount(sample, sample.staged, staging_rows=1)
    key = STAGED_CHECKSUM + pair_key(sample.staged, 7)
    context.reported = dataclasses.replace(
        context.reported, broken={**context.reported.broken, Table.META: frozenset([key])}
    )
    lose_incomplete_files(context)
    assert context.actions == []


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_damaged_key_hides_no_missing_row(
    context: RepairContext, sample: Sample, size: int
) -> None:
    """A broken row with a key that is too short for an inode is in the place of none."""
    miscount(sample, sample.staged, staging_rows=1)
    broken = STAGED_CHECKSUM + number_key(sample.staged)[8 - size :]
    context.reported = dataclasses.replace(
        context.reported, broken={**context.reported.broken, Table.META: frozenset([broken])}
    )
    lose_incomplete_files(context)
    assert [action.files for action in context.actions] == [(STAGED,)]


@pytest.mark.parametrize(("window", "is_there"), [(0, True), (5, False)])
def test_a_broken_row_of_lost_bytes_has_a_window(
    context: RepairContext, sample: Sample, window: int, is_there: bool
) -> None:
    """Lost bytes are those of a staged window: without one, the key of their row is damaged."""
    miscount(sample, sample.staged, staging_rows=1)
    broken = {Table.LOST: frozenset([pair_key(sample.staged, window)])}
    context.reported = dataclasses.replace(
        context.reported, broken={**context.reported.broken, **broken}
    )
    lose_incomplete_files(context)
    assert (context.actions == []) is is_there


# -- attributes and tensors


def test_a_missing_attribute_is_reported(sample: Sample) -> None:
    """The number of lost attributes is named with the file, and its total is right again."""
    sample.store.attributes.put(sample.text, b"user.other", b"other")
    before = rows_in(sample.store)
    key = named_key(sample.text, b"user.note")
    sample.delete(Table.XATTRS, key)
    done = repaired(sample, before)
    assert done.actions == [
        lost(f"inode {sample.text}: 1 extended attributes are lost", TEXT),
        mended("inode records whose totals are corrected: 1"),
    ]
    assert done.changes.pop((Table.XATTRS, key), b"") is None
    assert [*done.changes] == [(Table.INODES, number_key(sample.text))]


def test_attributes_of_folders_are_counted_too(sample: Sample) -> None:
    """Any inode can have attributes, and lose them."""
    sample.store.attributes.put(sample.folder, b"user.note", b"value")
    before = rows_in(sample.store)
    sample.delete(Table.XATTRS, named_key(sample.folder, b"user.note"))
    done = repaired(sample, before)
    message = f"inode {sample.folder}: 1 extended attributes are lost"
    assert done.actions[0] == lost(message, b"/folder")


def test_a_broken_attribute_is_reported_once(sample: Sample) -> None:
    """A row that was set aside is reported already, and not as a missing one."""
    miscount(sample, sample.text, xattr_rows=1)
    key = named_key(sample.text, b"user.note")
    before = rows_in(sample.store)
    sample.put(Table.XATTRS, key[:8], JUNK)
    done = repaired(sample, before)
    message = "rows of the table xattrs that cannot be read, set aside: 1"
    assert done.actions == [
        lost(message, TEXT),
        mended("inode records whose totals are corrected: 1"),
    ]


def test_a_broken_tensor_is_reported_once(sample: Sample) -> None:
    """A row of a tensor that was set aside is not reported as missing a second time."""
    before = rows_in(sample.store)
    key, _ = next(sample.store.index.pages(Table.TENSORS))
    sample.put(Table.TENSORS, key, JUNK)
    done = repaired(sample, before)
    messages = [action.message for action in done.actions]
    assert messages == [
        "rows of the table tensors that cannot be read, set aside: 1",
        "inode records whose totals are corrected: 1",
    ]


def test_a_damaged_key_hides_no_missing_attribute(sample: Sample) -> None:
    """A broken row with a key of one byte is no attribute of the inode with that number."""
    key = named_key(sample.text, b"user.note")
    before = rows_in(sample.store)
    sample.delete(Table.XATTRS, key)
    sample.put(Table.XATTRS, bytes([sample.text]), JUNK)
    done = repaired(sample, before)
    assert lost(f"inode {sample.text}: 1 extended attributes are lost", TEXT) in done.actions


def test_missing_tensors_are_queued(sample: Sample) -> None:
    """Ingest makes the rows again: the file is queued, and nothing of it is lost."""
    before = rows_in(sample.store)
    keys = [key for key, _ in sample.store.index.pages(Table.TENSORS)]
    keys = [key for key in keys if key.startswith(number_key(sample.base))][:2]
    for key in keys:
        sample.delete(Table.TENSORS, key)
    sample.delete(Table.PENDING, number_key(sample.base))
    done = repaired(sample, before)
    message = f"inode {sample.base}: ingest makes 2 missing rows of tensors again"
    assert done.actions[0] == mended(message, BASE)
    assert done.changes[Table.PENDING, number_key(sample.base)] is not None
    with Store(sample.path) as store:
        ingest_all(store)
        assert {store.index.get(Table.TENSORS, key) for key in keys} == {
            before[Table.TENSORS, key] for key in keys
        }


def test_rows_that_are_there_are_not_missing(context: RepairContext, sample: Sample) -> None:
    """A record that counts fewer rows than there are loses nothing."""
    miscount(sample, sample.text, xattr_rows=-1)
    miscount(sample, sample.base, tensor_rows=-1)
    report_missing_rows(context)
    assert context.actions == []


# -- the totals


def test_totals_are_those_of_the_rows(context: RepairContext, sample: Sample) -> None:
    """Each record with a wrong total is corrected, and the number of them is reported."""
    right = {inode: totals(sample, inode) for inode in (sample.base, sample.text, sample.staged)}
    for number, inode in enumerate(right, 1):
        miscount(sample, inode, mapped=number, xattr_rows=number)
    miscount(sample, sample.staged, staging_rows=5, tensor_rows=3)
    recount_totals_of_inodes(context)
    assert {inode: totals(sample, inode) for inode in right} == right
    assert context.actions == [mended("inode records whose totals are corrected: 3")]
    recount_totals_of_inodes(context)
    assert len(context.actions) == 1


def test_records_without_totals_get_them_silently(context: RepairContext, sample: Sample) -> None:
    """In a store of an older format no total was wrong: none is reported, and no file is lost."""
    context.has_totals = False
    right = totals(sample, sample.staged)
    miscount(sample, sample.staged, staging_rows=5, xattr_rows=2, tensor_rows=1)
    lose_incomplete_files(context)
    report_missing_rows(context)
    recount_totals_of_inodes(context)
    assert totals(sample, sample.staged) == right
    assert context.actions == list[Action]()


def test_other_fields_of_a_record_stay(context: RepairContext, sample: Sample) -> None:
    """Mode, size, owner and times are as before the recount."""
    node = sample.node(sample.base)
    miscount(sample, sample.base, mapped=1)
    recount_totals_of_inodes(context)
    assert sample.node(sample.base) == node
