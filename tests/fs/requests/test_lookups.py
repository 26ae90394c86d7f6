"""The lookup counts of inodes, and the orphans that they make."""

import pytest

from modelfs.fs.requests.lookups import Lookups
from modelfs.store.files.namespace import Owner
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store
from tests.support.stores import FILE, Box

ONE, TWO = InodeNumber(1), InodeNumber(2)
OWNER = Owner(0, 0)


class Counts:
    """Lookups of a store, with the orphans that they report."""

    def __init__(self, store: Store) -> None:
        self.orphans: list[InodeNumber] = []
        self.lookups = Lookups(store, self.orphans.append)


@pytest.fixture
def counts(box: Box) -> Counts:
    return Counts(box.store)


def test_forgotten_after_as_many_lookups(counts: Counts) -> None:
    """An inode has lookups until the kernel takes each of them back."""
    for _ in range(3):
        counts.lookups.add(ONE)
    counts.lookups.forget(ONE, 2)
    assert counts.lookups.count(ONE) == 1
    counts.lookups.forget(ONE, 1)
    assert counts.lookups.count(ONE) == 0


def test_lookups_are_counted_by_inode(counts: Counts) -> None:
    """A forget of one inode leaves the lookups of others."""
    counts.lookups.add(ONE)
    counts.lookups.add(TWO)
    counts.lookups.forget(TWO, 1)
    assert (counts.lookups.count(ONE), counts.lookups.count(TWO)) == (1, 0)


def test_forget_of_more_than_was_counted(counts: Counts) -> None:
    """A forget of lookups that were never counted leaves nothing behind."""
    counts.lookups.forget(ONE, 5)
    counts.lookups.add(ONE)
    assert counts.lookups.count(ONE) == 1


@pytest.mark.parametrize("looked_up", [False, True])
def test_orphan(box: Box, counts: Counts, *, looked_up: bool) -> None:
    """An inode is an orphan when its last name and its last lookup are gone."""
    inode = box.store.namespace.create(ROOT, b"f", FILE, OWNER).inode
    box.store.namespace.link(inode, ROOT, b"g")
    if looked_up:
        assert counts.lookups.entry(inode).st_ino == inode
    counts.lookups.lost_name(box.store.namespace.unlink(ROOT, b"f"))
    assert counts.orphans == []
    counts.lookups.lost_name(box.store.namespace.unlink(ROOT, b"g"))
    assert counts.orphans == ([] if looked_up else [inode])
    counts.lookups.forget(inode, 1)
    assert counts.orphans == [inode]
