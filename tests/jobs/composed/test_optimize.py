"""A run of the optimizer as a whole."""

import numpy as np
import pytest
from safetensors.numpy import save

from modelfs.errors import StoreFull
from modelfs.jobs.composed.optimize import OptimizeRun, optimize_all
from modelfs.jobs.defrag import order as order_module
from modelfs.jobs.drive import run
from modelfs.jobs.gc.collector import LIVE_MIN_SMALL
from modelfs.jobs.optimize import backlog as backlog_module
from modelfs.jobs.optimize import room as room_module
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.disk.space import Room, Space
from modelfs.store.index.tables import ROOT, Table
from modelfs.store.store import Store
from tests.support.optimized_models import f32, forms, put, real
from tests.support.related_tensors import weights
from tests.support.run_jobs import collector_of
from tests.support.scattered_files import FILES, runs, scatter
from tests.support.served_store import Failing
from tests.support.stores import CHUNK, Box, content_of, stored_file, tensors_of


def new_run(store: Store) -> OptimizeRun:
    backlog = Backlog(store)
    backlog.begin()
    return OptimizeRun(store, backlog, collector_of(store))


def garbage_of(store: Store) -> int:
    """Return the bytes that a collection of everything would free, about."""
    return collector_of(store).measured(LIVE_MIN_SMALL).freed_bytes


def test_defragmentation_is_last(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends with defragmentation, and its progress reaches the total."""
    monkeypatch.setattr(Space, "room", lambda self: Room(1 << 40, 1 << 39, 1 << 20, 1 << 19))
    monkeypatch.setattr(order_module, "PORTION_BYTES", 32 * CHUNK)
    inodes = scatter(opened)
    stored_file(opened, b"model", save({"zeros": np.zeros((100, 1024), np.float32)}))
    progress: list[tuple[int, int]] = []
    collector = collector_of(opened)
    optimizing = optimize_all(
        opened, Backlog(opened), collector, lambda *done: progress.append(done)
    )
    run(optimizing, opened)
    assert runs(opened, inodes) == [1] * FILES
    assert progress[-1][0] == progress[-1][1]
    assert progress == sorted(progress)


def test_garbage_goes_at_the_end(wide: Box) -> None:
    """Old forms, orphans and chunks that only derived ones need are collected with the run."""
    for name in ("base", "finetune"):
        put(wide.store, name, real(f"{name}.safetensors"))
    wide.store.namespace.unlink(ROOT, b"base")
    run(optimize_all(wide.store, Backlog(wide.store), collector_of(wide.store)), wide.store)
    assert garbage_of(wide.store) == 0
    assert wide.store.orphans.inodes() == []
    assert wide.store.inventory.statistics(0).base_only_chunks == 0


def test_a_part_without_room_is_tried_once_more(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a batch that finds no room, all garbage is collected, and the batch comes again."""
    store = wide.store
    stored_file(store, b"gone", tensors_of({"w": f32(weights(300, 200, seed=1))}))
    inode = stored_file(store, b"base", real("base.safetensors"))
    run(new_run(store).to_end(1), store)
    gone = store.namespace.unlink(ROOT, b"gone")
    for _ in store.orphans.remove(gone):
        pass
    stored_file(store, b"finetune", real("finetune.safetensors"))
    garbage = garbage_of(store)
    assert garbage > 0
    monkeypatch.setattr(ChunkWriter, "finish", Failing(ChunkWriter.finish, StoreFull("full")))
    optimizing = new_run(store)
    assert run(optimizing.advance(1), store)
    assert garbage_of(store) >= garbage
    run(optimizing.to_end(1), store)
    assert garbage_of(store) < garbage
    assert "delta" in forms(store)
    assert content_of(store, inode) == real("base.safetensors")


def test_a_part_without_room_twice_ends_the_run(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that finds no room after a collection raises; the same run may be advanced again."""
    stored_file(wide.store, b"base", real("base.safetensors"))
    optimizing = new_run(wide.store)

    def full(self: ChunkWriter) -> None:
        raise StoreFull("full")

    with monkeypatch.context() as patch:
        patch.setattr(ChunkWriter, "finish", full)
        assert run(optimizing.advance(1), wide.store)
        with pytest.raises(StoreFull):
            run(optimizing.advance(1), wide.store)
    run(optimizing.to_end(1), wide.store)
    assert not list(wide.store.index.pages(Table.TO_OPTIMIZE))


def test_much_garbage_is_collected_between_batches(
    wide: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a batch, packs are rewritten when their garbage is above the bound."""
    monkeypatch.setattr(room_module, "GARBAGE_MIN", 100_000)
    monkeypatch.setattr(room_module, "AMPLE_PART", 0)
    monkeypatch.setattr(backlog_module, "BATCH_TENSORS", 1)
    put(wide.store, "base", real("base.safetensors"))
    stored_file(wide.store, b"finetune", real("finetune.safetensors"))
    optimizing = new_run(wide.store)
    most = 0
    while run(optimizing.advance(1), wide.store):
        most = max(most, garbage_of(wide.store))
    optimizing.rest()
    assert 100_000 < most < 700_000
    assert garbage_of(wide.store) <= 100_000


def test_a_run_goes_on_after_a_rest(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that rests gives back its threads, and its next part is the next batch."""
    monkeypatch.setattr(backlog_module, "BATCH_TENSORS", 1)
    stored_file(wide.store, b"base", real("base.safetensors"))
    optimizing = new_run(wide.store)
    optimizing.backlog_bytes = len(real("base.safetensors"))
    assert run(optimizing.advance(1), wide.store)
    at_work = [optimizing.at_work]
    optimizing.rest()
    assert [*at_work, optimizing.at_work] == [True, False]
    done = optimizing.done
    assert run(optimizing.advance(1), wide.store)
    assert optimizing.done > done > 0
    optimizing.rest()
