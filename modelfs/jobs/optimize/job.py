"""Optimization, as jobs."""

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from modelfs.errors import StoreFull
from modelfs.jobs.optimize.apply import Applier
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.batch import Batch, BatchResult
from modelfs.jobs.optimize.room import garbage_max
from modelfs.jobs.optimize.worker import RunOptions, Worker
from modelfs.jobs.steps import Job, Pause, Progress, Work, pausing
from modelfs.store.statistics import Statistics
from modelfs.store.store import Store

log = logging.getLogger(__name__)


class Optimizer:
    """One run of the optimizer. Close it at the end."""

    def __init__(self, store: Store, backlog: Backlog, threads: int) -> None:
        """Begin a run; `threads` encode at the same time."""
        self._store = store
        self._backlog = backlog
        self._applier = Applier(store, backlog)
        options = RunOptions(backlog.depth, threads, backlog.include_optimized)
        self._worker = Worker(store, options)

    def optimize_batch(
        self, may_delete: Callable[[], bool] = lambda: True
    ) -> Job[BatchResult | None]:
        """Optimize the next batch, and return its result; None if the backlog is empty.

        The caller holds off other writers of packs.

        Args:
            may_delete: whether no reader needs packs to stay. Empty packs are deleted then.

        Raises:
            StoreFull: no room for the new forms; nothing is lost.
            OSError: the disk failed; nothing is lost.
        """
        return (yield from self._work_on(self._backlog.next_batch, may_delete))

    def free_bases(self) -> Job[BatchResult | None]:
        """Encode the dependants of the next base-only chunks without these; None: there are none.

        The chunks are dead then. Otherwise as `optimize_batch`.
        """
        return (yield from self._work_on(self._backlog.next_bases, lambda: False))

    def _work_on(
        self, next_batch: Callable[[], Batch | None], may_delete: Callable[[], bool]
    ) -> Job[BatchResult | None]:
        batch: Batch | None = yield Work(next_batch)
        if batch is None:
            return None
        with self._store.writing() as writer:
            result: BatchResult = yield Work(partial(self._worker.work, batch, writer))
        still_valid = partial(self._applier.still_valid, result)
        yield from pausing(self._store.publish(result.written, still_valid))
        yield from pausing(self._applier.apply(result))
        if may_delete():
            yield from pausing(self._store.reclaimer.retire_empty_packs())
        return result

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called: this run does no more work."""
        return self._worker.stopped

    def stop(self) -> None:
        """Let the batch under way end soon, with the forms appended until then."""
        self._worker.stop()

    def close(self) -> None:
        self._worker.close()


def free_bases(store: Store) -> Job[None]:
    """Encode all chunks that derive from base-only ones without these. The caller collects them.

    Raises:
        StoreFull: no room for the new forms; nothing is lost.
    """
    backlog = Backlog(store)
    optimizer = Optimizer(store, backlog, os.cpu_count() or 1)
    try:
        while (yield from optimizer.free_bases()) is not None:
            yield Pause()
    finally:
        optimizer.close()


def optimize(
    store: Store,
    backlog: Backlog,
    progress: Progress | None = None,
    make_room: Callable[[int], Job[object]] | None = None,
) -> Job[None]:
    """Give each chunk of each tensor its smallest form, with all processors.

    After a stop, the next run continues where this one ended.

    Args:
        store: the store.
        backlog: of that store, after `begin`.
        progress: called with the bytes of tensors that are done, and those of all files.
        make_room: a job that collects garbage if there is more than so many bytes.

    Raises:
        StoreFull: no room for the new forms; nothing is lost.
    """
    optimizer = Optimizer(store, backlog, os.cpu_count() or 1)
    total, done, failures = backlog.status().bytes, 0, 0
    try:
        while True:
            if make_room is not None:
                yield from make_room(0 if failures else garbage_max(store))
            backlog.fit_batches()
            try:
                result = yield from optimizer.optimize_batch()
            except StoreFull:
                failures += 1
                if make_room is None or failures > 1:
                    raise
                continue
            if result is None:
                return
            failures = 0
            done += result.batch.bytes
            if progress is not None:
                progress(min(done, total), total)
            yield Pause()
    finally:
        optimizer.close()


def optimize_report(before: Statistics, after: Statistics, damaged: int) -> dict[str, Any]:
    """Return the sizes before and after a run, ready for JSON; `damaged` chunks were left."""
    return {
        "logical_bytes": after.logical_bytes,
        "stored_before": before.stored_bytes,
        "stored_after": after.stored_bytes,
        "damaged": damaged,
        "forms": after.forms,
    }
