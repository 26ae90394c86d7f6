"""Models of related tensors, stored and optimized."""

from contextlib import closing
from typing import Final

import numpy as np

from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.batch import BatchResult
from modelfs.jobs.optimize.worker import RunOptions, Worker
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.tables import ROOT, Table
from modelfs.store.store import Store
from tests.support.paths import MODELS
from tests.support.run_jobs import drain, optimize
from tests.support.stores import content_of, stored_file

GRID: Final = 64 << 10
Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def real(name: str) -> bytes:
    """Return the content of a sample model."""
    return (MODELS / name).read_bytes()


def f32(array: Array) -> tuple[str, tuple[int, ...], bytes]:
    """Return an array as `tensors_of` accepts it."""
    return "F32", array.shape, np.ascontiguousarray(array).tobytes()


def put(store: Store, name: str, data: bytes) -> int:
    """Store and optimize a file, and return the number of stored bytes that it adds."""
    before = store.inventory.statistics(0).stored_bytes
    inode = stored_file(store, name.encode(), data)
    optimize(store)
    assert content_of(store, inode) == data
    return store.inventory.statistics(0).stored_bytes - before


def forms(store: Store) -> set[str]:
    """Return the names of the stored forms."""
    return set(store.inventory.statistics(0).forms)


def remove(store: Store, name: bytes) -> None:
    """Remove a file and its rows."""
    inode = store.namespace.lookup(ROOT, name)
    store.namespace.unlink(ROOT, name)
    drain(store.orphans.remove(inode))


def records(store: Store) -> list[Chunk]:
    """Return the records of all chunks."""
    return [Chunk.from_bytes(value) for _, value in store.index.pages(Table.CHUNKS)]


def work_on_next(store: Store, backlog: Backlog, *, stopped: bool = False) -> BatchResult:
    """Do the work of the next batch, without applying its result."""
    batch = backlog.next_batch()
    assert batch is not None
    options = RunOptions(backlog.depth, threads=1, include_optimized=backlog.include_optimized)
    with closing(Worker(store, options)) as worker:
        if stopped:
            worker.stop()
        return worker.work(batch, store.writer())
