"""The room of an optimization, and the bound on it."""

import os
from pathlib import Path
from typing import Any

import pytest

from modelfs.jobs.composed.optimize import OptimizeRun
from modelfs.jobs.optimize import backlog as backlog_module
from modelfs.jobs.optimize import room as room_module
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.room import garbage_max, room_for
from modelfs.jobs.steps import Hold, Step, Work
from modelfs.store.disk.calls import drive
from modelfs.store.disk.space import Space
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store
from tests.support.optimized_models import f32
from tests.support.related_tensors import weights
from tests.support.run_jobs import collector_of
from tests.support.stores import Box, content_of, stored_file, tensors_of

MB = 1 << 20
MODELS = 12
PACK = 2 * MB


def models(store: Store) -> dict[InodeNumber, bytes]:
    """Store models, and return their content by inode."""
    contents = [tensors_of({"w": f32(weights(700, 400, seed=number))}) for number in range(MODELS)]
    return {stored_file(store, b"%d" % number, data): data for number, data in enumerate(contents)}


def packs(store: Store) -> int:
    return sum(path.stat().st_size for path in store.packs.directory.path.iterdir())


def peak_of(store: Store, monkeypatch: pytest.MonkeyPatch) -> int:
    """Optimize with a collection whenever garbage is above the bound; return the largest size."""
    monkeypatch.setattr(room_module, "GARBAGE_MIN", MB)
    monkeypatch.setattr(backlog_module, "BATCH_BYTES", MB)
    collector, peak = collector_of(store), 0
    backlog = Backlog(store)
    backlog.begin()

    def execute(step: Step) -> Any:
        nonlocal peak
        result = None
        if isinstance(step, Hold):
            return drive(step.job, execute)
        if isinstance(step, Work):
            result = step.call()
        else:
            store.commit()
        peak = max(peak, packs(store))
        return result

    drive(OptimizeRun(store, backlog, collector).to_end(2), execute)
    return peak


def test_a_run_takes_no_more_than_it_says(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a store is optimized, it grows by no more than the room that was shown before."""
    monkeypatch.setattr(wide.store.packs, "_size_max", PACK)
    contents = models(wide.store)
    before = packs(wide.store)
    monkeypatch.setattr(room_module, "PACK_SIZE", PACK)
    monkeypatch.setattr(room_module, "GARBAGE_MIN", MB)
    monkeypatch.setattr(room_module, "AMPLE_PART", 0)
    monkeypatch.setattr(room_module, "BATCH_BYTES", MB)
    backlog = Backlog(wide.store)
    needed = room_for(wide.store, backlog.status().bytes).needed
    assert needed < before // 2
    assert peak_of(wide.store, monkeypatch) <= before + needed
    assert {inode: content_of(wide.store, inode) for inode in contents} == contents


def test_ample_room_saves_collections(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on garbage is at least an eighth of the free room, and a run shows that."""
    monkeypatch.setattr(Space, "working_bytes", 80 << 30)
    assert garbage_max(wide.store) == 10 << 30
    assert 10 << 30 < room_for(wide.store, 1 << 50).needed < 11 << 30
    assert room_for(wide.store, MB).needed < 2 * MB


def test_little_room_makes_small_portions(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """With little room, batches and the bound on garbage are parts of it."""
    wide.store.space.close()  # the ballast would count beside the room that is shown
    real = os.statvfs

    def full(path: Path) -> os.statvfs_result:
        values = list(real(path))
        values[1] = 4096
        values[2], values[3], values[4] = 1000 * MB // 4096, 0, (50 * MB // 8 + 40 * MB) // 4096
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", full)
    store = wide.store
    models(store)
    assert garbage_max(store) == 20 * MB
    backlog = Backlog(store)
    backlog.fit_batches()
    room = room_for(store, backlog.status().bytes)
    assert room.free == 40 * MB
    assert 0 < room.needed < 14 * MB
    assert room.least <= room.needed
