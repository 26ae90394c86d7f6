"""Garbage collection as a whole."""

import pytest

from modelfs.jobs.composed.collect import collect_all
from modelfs.jobs.drive import run
from modelfs.jobs.gc.collector import LIVE_MIN_SMALL, Garbage
from modelfs.jobs.gc.job import OrphanQueue
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.optimized_models import put, real
from tests.support.run_jobs import collect_with, collector_of
from tests.support.stores import Box, content_of, noise, stored_file


@pytest.fixture
def held(wide: Box) -> Store:
    """A store with an orphan whose chunks are the bases of a fine-tune."""
    for name in ("base", "finetune"):
        put(wide.store, name, real(f"{name}.safetensors"))
    wide.store.namespace.unlink(ROOT, b"base")
    return wide.store


def test_bases_of_orphans_are_freed(held: Store) -> None:
    """One collection removes orphans, and frees the chunks that only derived ones need."""
    before = collector_of(held).pack_bytes()
    found = collect_with(held, collector_of(held), LIVE_MIN_SMALL)
    freed = before - collector_of(held).pack_bytes()
    assert found.base_only_chunks > 0
    assert (found.pack_bytes, found.base_only_bytes) == (freed, 0)
    assert freed > 200_000
    assert collect_with(held, collector_of(held), LIVE_MIN_SMALL) == Garbage(0, 0, 0, 0)
    inode = held.namespace.lookup(ROOT, b"finetune")
    assert content_of(held, inode) == real("finetune.safetensors")


def test_it_ends_when_enough_is_free(opened: Store) -> None:
    """No pack is rewritten once there is enough room; dead chunks go in any case."""
    stored_file(opened, b"kept", noise(10_000, 1))
    gone = stored_file(opened, b"gone", noise(3_000_000, 2))
    opened.namespace.unlink(ROOT, b"gone")
    collecting = collect_all(
        opened,
        collector_of(opened),
        OrphanQueue(opened, [gone]),
        enough=lambda: True,
        threads=1,
    )
    found = run(collecting, opened)
    assert found.dead_chunks > 0
    assert found.packs == 0
    assert collector_of(opened).survey().dead_chunks == 0
