"""Optimizing, as jobs."""

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from modelfs.jobs.optimize.apply import Applier
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.batch import Batch, BatchResult
from modelfs.jobs.optimize.worker import RunOptions, Worker
from modelfs.jobs.steps import Job, Pause, Work, pausing
from modelfs.store.statistics import Statistics
from modelfs.store.store import Store

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


class Optimizer:
    """One run of the optimizer, with so many threads. Close it at the end."""

    def __init__(self, store: Store, backlog: Backlog, threads: int) -> None:
        self._store = store
        self._backlog = backlog
        self._applier = Applier(store, backlog)
        options = RunOptions(backlog.depth, threads, backlog.include_optimized)
        self._worker = Worker(store, options)

    def optimize_batch(self) -> Job[BatchResult | None]:
        """Optimize the next batch; returns None if nothing is left that can be done.

        Nobody else may append to packs meanwhile.

        Raises:
            StoreFull: no room for what was encoded; nothing is lost.
            OSError: the disk failed; nothing is lost.
        """
        batch: Batch | None = yield Work(self._backlog.next_batch)
        if batch is None:
            return None
        with self._store.writing() as writer:
            result: BatchResult = yield Work(partial(self._worker.work, batch, writer))
        still_valid = partial(self._applier.still_valid, result)
        yield from pausing(self._store.publish(result.written, still_valid))
        yield from pausing(self._applier.apply(result))
        return result

    @property
    def stopped(self) -> bool:
        """Whether it was stopped, so that it does no more work."""
        return self._worker.stopped

    def stop(self) -> None:
        """Let the batch under way end soon, with what it has by then."""
        self._worker.stop()

    def close(self) -> None:
        self._worker.close()


def optimize(store: Store, backlog: Backlog, progress: Progress | None = None) -> Job[None]:
    """Give every chunk of every tensor its smallest form, with all processors.

    A job that is stopped is gone on with by the next one.

    Args:
        store: the store.
        backlog: of that store, after `begin`.
        progress: called with how many bytes of files are done, and how many there are.

    Raises:
        StoreFull: no room for what was encoded; nothing is lost.
    """
    optimizer = Optimizer(store, backlog, os.cpu_count() or 1)
    total, done = backlog.status().bytes, 0
    try:
        while (result := (yield from optimizer.optimize_batch())) is not None:
            yield from pausing(store.reclaimer.retire_empty_packs())
            done += result.batch.bytes
            if progress is not None:
                progress(min(done, total), total)
            yield Pause()
    finally:
        optimizer.close()


def optimize_report(store: Store, backlog: Backlog, before: Statistics) -> dict[str, Any]:
    """Return what a run came to, as JSON can hold it."""
    after = store.statistics(0)
    return {
        "logical_bytes": after.logical_bytes,
        "stored_before": before.stored_bytes,
        "stored_after": after.stored_bytes,
        "damaged": backlog.damaged,
        "forms": after.forms,
    }
