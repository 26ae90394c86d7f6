"""The backlog of the optimizer: runs, their batches, and interruptions."""

import dataclasses
from collections.abc import Iterator

import pytest

from modelfs.errors import StoreFull
from modelfs.jobs.optimize.apply import Applier
from modelfs.jobs.optimize.backlog import BATCH_BYTES, Backlog
from modelfs.jobs.optimize.batch import BatchResult
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.index.superblock import SUPERBLOCK
from modelfs.store.index.tables import ROOT, Table, number_key
from modelfs.store.store import Store
from tests.support.optimized_models import (
    GRID,
    f32,
    forms,
    put,
    real,
    records,
    work_on_next,
)
from tests.support.related_tensors import weights
from tests.support.run_jobs import drain, ingest_all, optimize, optimize_batches
from tests.support.stores import Box, content_of, stored_file, tensors_of


class Interrupted(Exception):
    pass


def test_a_run_goes_on_where_it_was_stopped(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches before an interruption are kept, and the next run does the rest."""
    monkeypatch.setattr("modelfs.jobs.optimize.backlog.BATCH_TENSORS", 1)
    inode = stored_file(wide.store, b"base", real("base.safetensors"))

    def stop(done: int, total: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        optimize(wide.store, stop)
    store = wide.crash()
    assert store.index.get(Table.TO_OPTIMIZE, number_key(inode)) is not None
    optimized = sum(record.optimized for record in records(store))
    assert 0 < optimized < len(records(store))
    backlog = optimize(store)
    assert backlog.next_batch() is None
    assert backlog.status().files == 0
    assert content_of(store, inode) == real("base.safetensors")


def test_a_stopped_batch_comes_again(wide: Box) -> None:
    """The result of a stopped batch is marked as such, and the batch is the next one again."""
    stored_file(wide.store, b"base", real("base.safetensors"))
    backlog = Backlog(wide.store)
    result = work_on_next(wide.store, backlog, stopped=True)
    assert result.stopped
    drain(Applier(wide.store, backlog).apply(result))
    assert backlog.next_batch() == result.batch


def test_a_file_that_changes_between_runs_is_begun_again(wide: Box) -> None:
    """A file that was listed again after a stop in its middle is optimized by the next run."""
    inode = stored_file(wide.store, b"base", real("base.safetensors"))
    backlog = Backlog(wide.store)
    assert backlog.next_batch() is not None
    wide.store.writes.write(inode, 900_000, b"changed")
    ingest_all(wide.store)
    backlog.begin()
    optimize_batches(wide.store, backlog)
    assert backlog.status().files == 0


def test_a_full_disk_loses_nothing(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that finds no room for its forms changes nothing, and the next one succeeds."""
    inode = stored_file(wide.store, b"base", real("base.safetensors"))

    def full(self: ChunkWriter) -> None:
        raise StoreFull("full")

    with monkeypatch.context() as patch:
        patch.setattr(ChunkWriter, "finish", full)
        with pytest.raises(StoreFull):
            optimize(wide.store)
    assert content_of(wide.store, inode) == real("base.safetensors")
    optimize(wide.store)
    assert forms(wide.store) >= {"planes"}


def test_a_file_that_is_being_written_waits(wide: Box) -> None:
    """A file with staged bytes is not optimized before it is ingested."""
    inode = stored_file(wide.store, b"base", real("base.safetensors"))
    wide.store.writes.write(inode, 100_000, b"staged")
    backlog = Backlog(wide.store)
    assert backlog.next_batch() is None
    ingest_all(wide.store)
    assert backlog.next_batch() is not None


def test_a_large_file_is_optimized_in_batches(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of several batches is optimized completely."""
    assert BATCH_BYTES > GRID
    monkeypatch.setattr("modelfs.jobs.optimize.backlog.BATCH_BYTES", 50_000)
    tensors = {f"t{number}": f32(weights(100, 40, seed=number)) for number in range(20)}
    put(wide.store, "model", tensors_of(tensors))
    assert all(record.optimized for record in records(wide.store) if record.size == 16_000)


def test_a_store_of_format_1_is_walked(wide: Box) -> None:
    """Files without a row in TO_OPTIMIZE are optimized in a store that was upgraded."""
    inode = stored_file(wide.store, b"base", real("base.safetensors"))
    with wide.store.index.change():
        wide.store.index.delete(Table.TO_OPTIMIZE, number_key(inode))
        block = dataclasses.replace(wide.store.superblock, version=1)
        wide.store.index.put(Table.META, SUPERBLOCK, block.to_bytes())
    assert Backlog(wide.store).next_batch() is None
    store = wide.reopen()
    backlog = optimize(store)
    assert "planes" in forms(store)
    assert backlog.next_batch() is None


def test_a_listed_file_does_not_move_the_walk(wide: Box) -> None:
    """A walk reaches files with smaller numbers than a listed one, which is done first."""
    put(wide.store, "base", tensors_of({"w": f32(weights(300, 200, seed=0))}))
    stored_file(wide.store, b"later", tensors_of({"w": f32(weights(300, 200, seed=1))}))
    base = wide.store.namespace.lookup(ROOT, b"base")
    backlog = Backlog(wide.store)
    backlog.begin(include_optimized=True)
    assert base in set(batches(wide.store, backlog))


def batches(store: Store, backlog: Backlog) -> Iterator[int]:
    """Yield the inode of each batch of a run that changes nothing."""
    nothing = WriteResult({}, {}, {}, ())
    while (batch := backlog.next_batch()) is not None:
        yield batch.inode
        result = BatchResult(batch, nothing, {}, {}, [], {}, damaged=0, stopped=False)
        drain(Applier(store, backlog).apply(result))
