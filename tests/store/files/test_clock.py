"""The clock of files' times, and the times that a record can have."""

import pytest

from modelfs.store.files.clock import EARLIEST_NS, LATEST_NS, STEP_NS, clamped, now_ns
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store


def test_a_stamp_is_not_before_the_one_that_it_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time ahead by less than a step of the clock stays; one ahead by more is replaced."""
    monkeypatch.setattr("time.clock_gettime_ns", lambda number: 10**18)
    assert now_ns() == now_ns(5) == 10**18
    assert now_ns(10**18 + STEP_NS) == 10**18 + STEP_NS
    assert now_ns(10**18 + STEP_NS + 1) == 10**18


@pytest.mark.parametrize(
    ("time_ns", "kept"),
    [
        (0, 0),
        (-1, -1),
        (LATEST_NS - 1, LATEST_NS - 1),
        (LATEST_NS + 1, LATEST_NS),
        (EARLIEST_NS - 1, EARLIEST_NS),
        (1 << 90, LATEST_NS),
        (-1 << 90, EARLIEST_NS),
    ],
)
def test_a_time_becomes_the_nearest_that_fits(opened: Store, time_ns: int, kept: int) -> None:
    """A time that a record has room for stays, and any other becomes the first or the last."""
    assert clamped(time_ns) == kept
    node = opened.inodes.get(ROOT)
    with opened.index.change():
        opened.inodes.touch(node, atime_ns=clamped(time_ns), mtime_ns=clamped(time_ns))
    node = opened.inodes.get(ROOT)
    assert (node.atime_ns, node.mtime_ns) == (kept, kept)
