"""The view of a check: rows that decode, names for damage, and the sums of all rows."""

import dataclasses

import pytest

from modelfs.jobs.check.view import CheckView
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import WindowRanges
from modelfs.store.index.tables import ROOT, Table, number_key, pair_key
from modelfs.store.index.tensor_records import TensorRow
from tests.support.sample_lineage import Kin
from tests.support.sample_store import QUERY, WORDS, Sample


@pytest.fixture
def view(sample: Sample) -> CheckView:
    return CheckView(sample.store)


def test_broken_rows_are_passed_over(sample: Sample) -> None:
    """A row that does not decode is there, and has no record."""
    key = number_key(sample.cut)
    whole = len(list(CheckView(sample.store).inodes()))
    sample.put(Table.INODES, key, b"junk")
    view = CheckView(sample.store, {table: {key} for table in Table})
    assert len(list(view.inodes())) == whole - 1
    assert view.has(Table.INODES, key)
    assert view.inode(sample.cut) is None
    assert view.inode(sample.base) == sample.node(sample.base)
    sample.store.abandon()


def test_a_path_or_a_number(sample: Sample, view: CheckView) -> None:
    """An inode has its path, and its number where no path leads to it."""
    assert view.path(sample.text) == b"/folder/text"
    cookie = sample.dentry(ROOT, b"cut").cookie
    sample.put(Table.LISTING, pair_key(ROOT, cookie), b"junk")
    assert view.path(sample.cut) == b"(inode %d)" % sample.cut
    sample.store.abandon()


def test_tensors_of_a_range(sample: Sample, view: CheckView) -> None:
    """A tensor belongs to a range if they share a byte; a tensor that ends there does not."""
    words = next(each for each in tensors_of(sample) if each[0] == WORDS)
    query = next(each for each in tensors_of(sample) if each[0] == QUERY)
    _, start, stop = words
    assert WORDS in view.tensors(sample.base, start, start + 1)
    assert WORDS in view.tensors(sample.base, stop - 1, stop)
    assert WORDS not in view.tensors(sample.base, stop, stop + 1)
    assert WORDS not in view.tensors(sample.base, start - 1, start)
    assert QUERY in view.tensors(sample.base, query[1] - 1, query[1] + 1)
    assert list(view.tensors(sample.text, 0, 1 << 40)) == []


def tensors_of(sample: Sample) -> list[tuple[str, int, int]]:
    """Return name, start and stop of each tensor of a model."""
    rows = sample.store.index.pages(
        Table.TENSORS, pair_key(sample.base, 0), pair_key(sample.base + 1, 0)
    )
    tensors = (TensorRow.from_row(key, value) for key, value in rows)
    return [(each.name, each.start, each.start + each.size) for each in tensors]


def test_sums_are_those_of_a_sound_store(sample: Sample, view: CheckView) -> None:
    """Counted totals, live bytes, uses and dependants are what the records say."""
    counters = sample.store.counters
    assert all(counters.get(name) == total for name, total in view.counts.totals.items())
    assert view.counts.chunks == len(list(sample.store.index.pages(Table.CHUNKS)))
    assert view.counts.live_bytes == {pack: row.live for pack, row in view.packs() if row.live}
    for chunk, record in view.chunks():
        assert view.references.extents.get(chunk, 0) == record.refs
        assert view.references.bytes.get(chunk, 0) == record.ref_bytes
        assert view.derivations.dependants.get(chunk, 0) == record.dependants
    assert view.missing == view.surplus == {}
    assert sample.findings() == []


@pytest.mark.parametrize("table", [Table.SOURCES, Table.DEPENDANTS])
def test_a_link_that_one_table_has_counts_once(sample: Sample, table: Table) -> None:
    """A link is there if either table has it, and the same for both."""
    before = sorted(CheckView(sample.store).links())
    kin = Kin(sample)
    assert (kin.derived, kin.bottom) in before
    for key, _ in list(sample.store.index.pages(table)):
        sample.delete(table, key)
    assert sorted(CheckView(sample.store).links()) == before
    sample.store.abandon()


def test_missing_bytes_are_those_of_extents_that_are_gone(sample: Sample) -> None:
    """Each extent that is gone, and that its chunk still counts, is missing with its length."""
    extents = sample.extents(sample.base)[:2]
    for extent in extents:
        sample.delete(Table.EXTENTS, pair_key(sample.base, extent.start))
    missing = CheckView(sample.store).missing
    assert missing == {extent.chunk: extent.length for extent in extents}
    record = sample.store.chunks.record(extents[0].chunk)
    counted = dataclasses.replace(
        record, refs=record.refs - 1, ref_bytes=record.ref_bytes - extents[0].length
    )
    sample.put_chunk(extents[0].chunk, counted)
    assert CheckView(sample.store).missing == {extents[1].chunk: extents[1].length}
    sample.put_chunk(extents[0].chunk, dataclasses.replace(counted, ref_bytes=record.ref_bytes))
    view = CheckView(sample.store)
    assert view.missing == {extents[1].chunk: extents[1].length}  # no other extent is gone
    sample.store.abandon()


def test_holes_lie_between_extents_and_staged_ranges(sample: Sample, view: CheckView) -> None:
    """A hole ends at an extent, at a staged range, at a truncation, and at the file's end."""
    assert list(view.holes()) == []
    first, second, *_ = sample.extents(sample.base)
    sample.delete(Table.EXTENTS, pair_key(sample.base, first.start))
    hole = (sample.base, first.start, second.start)
    assert list(CheckView(sample.store).holes()) == [hole]
    middle = first.start + 5
    window = WindowRanges(99, RangeSet([(first.start, middle)]))
    sample.put(Table.STAGED, pair_key(sample.base, 0), window.to_bytes())
    assert list(CheckView(sample.store).holes()) == [(sample.base, middle, second.start)]
    sample.put(Table.TRIMS, number_key(sample.base), number_key(middle + 5))
    assert list(CheckView(sample.store).holes()) == [(sample.base, middle, middle + 5)]
    sample.store.abandon()
