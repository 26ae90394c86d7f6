"""Lost ranges: reads of them fail, the report names them, and the bytes beside them stay."""

import pytest

from modelfs.errors import CorruptData
from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.lost_ranges import lose_ranges, trim_of
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.tables import Table, number_key
from tests.support.sample_store import CHUNK, Sample


def test_only_the_lost_bytes_fail_to_read(sample: Sample, context: RepairContext) -> None:
    """Extents are cut where a lost range begins and ends."""
    node = sample.node(sample.base)
    before = sample.store.contents.read(sample.base, 0, node.size)
    lose_ranges(context, node, RangeSet([(1000, 2000)]), "says the test")
    assert sample.store.contents.read(sample.base, 0, 1000) == before[:1000]
    assert sample.store.contents.read(sample.base, 2000, node.size) == before[2000:]
    for at in (1000, 1999):
        with pytest.raises(CorruptData):
            sample.store.contents.read(sample.base, at, 1)
    (action,) = context.actions
    assert "1000 bytes are lost, says the test" in action.message
    assert action.files == (context.path(sample.base),)


def test_bytes_behind_the_end_are_not_lost(sample: Sample, context: RepairContext) -> None:
    """A range behind the end of a file changes nothing, and is not reported."""
    node = sample.node(sample.base)
    extents = sample.extents(sample.base)
    lose_ranges(context, node, RangeSet([(node.size, node.size + CHUNK)]), "says the test")
    assert (sample.extents(sample.base), context.actions) == (extents, [])


def test_a_truncation_is_finished_first(sample: Sample, context: RepairContext) -> None:
    """Lost extents behind the size of a truncation would be removed with those that it cut off."""
    node = sample.node(sample.base)
    context.index.put(Table.TRIMS, number_key(sample.base), number_key(1500))
    assert trim_of(context, node) == 1500
    lose_ranges(context, node, RangeSet([(1000, 2000)]), "says the test")
    assert trim_of(context, node) is None
    assert [(extent.start, extent.stop) for extent in sample.extents(sample.base)][-2:] == [
        (456, 1000),
        (1000, 2000),
    ]
