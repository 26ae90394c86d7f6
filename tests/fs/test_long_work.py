"""Long jobs give way to requests, and do not make the daemon grow."""

import pytest
from pyfuse3 import FileNameT, InodeT
from trio.testing import MockClock

from modelfs.errors import StoreFull
from modelfs.fs.background import durability
from modelfs.jobs.ingest import apply
from modelfs.store.chunks import publish
from modelfs.store.files import orphans
from modelfs.store.index.tables import Table
from modelfs.store.store import Store
from tests.support.served_store import ASKED, TOP, Counting, Failing, Served
from tests.support.stores import content_of, model_of, noise

MODEL = model_of(*(noise(200, number) for number in range(60)))


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make slices a few rows long, and commits due after a few slices."""
    for name in ("EXTENTS_SLICE", "ROWS_SLICE"):
        monkeypatch.setattr(apply, name, 5)
    monkeypatch.setattr(publish, "SLICE", 5)
    monkeypatch.setattr(orphans, "SLICE", 5)
    monkeypatch.setattr(durability, "CHANGES_MAX", 20)


def rows(store: Store, table: Table) -> int:
    return len(list(store.index.pages(table)))


async def test_long_ingest_commits_on_its_way(
    served: Served, monkeypatch: pytest.MonkeyPatch, clock: MockClock
) -> None:
    """A long ingest keeps not much more than `CHANGES_MAX` changes in memory."""
    applied = Counting(served.store.index.rows.write)
    monkeypatch.setattr(served.store.index.rows, "write", applied)
    inode = await served.written(b"model", MODEL)
    await served.background.ingest.ingest([inode], complete=True)
    assert len(applied.calls) > 5
    assert served.store.index.changes < 100
    assert content_of(served.store, inode) == MODEL
    assert rows(served.store, Table.TENSORS) == 60


async def test_a_removal_whose_commit_fails_goes_on_later(
    served: Served, monkeypatch: pytest.MonkeyPatch, clock: MockClock
) -> None:
    """After a failed commit in its middle, the same daemon finishes a removal later."""
    served.store.space.close()  # with a ballast the commit would be repeated
    inode = await served.chunked(b"model", MODEL)
    await served.operations.unlink(TOP, FileNameT(b"model"), ASKED)
    await served.operations.forget([(InodeT(inode), 1)])
    failing = Failing(served.store.index.rows.write, StoreFull("no room"))
    monkeypatch.setattr(served.store.index.rows, "write", failing)
    with pytest.raises(StoreFull):
        await served.background.gc.remove_orphans()
    await served.background.gc.remove_orphans()
    assert rows(served.store, Table.ORPHANS) == rows(served.store, Table.EXTENTS) == 0


async def test_a_forgotten_inode_is_removed_only_without_a_name(
    served: Served, clock: MockClock
) -> None:
    """A forgotten inode with a name stays, also when forget comes twice."""
    kept, gone = await served.written(b"kept", b"x"), await served.written(b"gone", b"y")
    await served.operations.unlink(TOP, FileNameT(b"gone"), ASKED)
    await served.background.gc.remove_orphans()
    assert served.store.inodes.find(gone) is not None
    await served.operations.forget([(InodeT(kept), 1), (InodeT(gone), 1)])
    await served.operations.forget([(InodeT(gone), 1)])
    await served.background.gc.remove_orphans()
    assert served.store.inodes.find(gone) is None
    assert content_of(served.store, kept) == b"x"
