"""Optimization of batches, as jobs. A whole run is `jobs.composed.optimize`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from modelfs.jobs.optimize.apply import Applier
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.batch import Batch, BatchResult
from modelfs.jobs.optimize.worker import RunOptions, Worker
from modelfs.jobs.steps import Job, Work, appending, pausing, unless_pinned
from modelfs.store.statistics import Statistics
from modelfs.store.store import Store


class Optimizer:
    """One run of the optimizer. Close it at the end."""

    def __init__(self, store: Store, backlog: Backlog, threads: int) -> None:
        """Begin a run; `threads` encode at the same time."""
        self._store = store
        self._backlog = backlog
        self._applier = Applier(store, backlog)
        options = RunOptions(backlog.depth, threads, backlog.include_optimized)
        self._worker = Worker(store, options)

    def optimize_batch(self) -> Job[BatchResult | None]:
        """Optimize the next batch, and return its result; None if the backlog is empty.

        Packs that became empty are deleted, unless a reader needs them to stay.

        Raises:
            StoreFull: no room for the new forms; nothing is lost.
            OSError: the disk failed; nothing is lost.
        """
        result = yield from appending(self._work_on(self._backlog.next_batch))
        if result is not None:
            yield from unless_pinned(pausing(self._store.reclaimer.retire_empty_packs()))
        return result

    def free_bases(self) -> Job[BatchResult | None]:
        """Encode the dependants of the next base-only chunks without these; None: there are none.

        The chunks are dead then. Otherwise as `optimize_batch`.
        """
        return appending(self._work_on(self._backlog.next_bases))

    def _work_on(self, next_batch: Callable[[], Batch | None]) -> Job[BatchResult | None]:
        batch: Batch | None = yield Work(next_batch)
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
        """Whether `stop` was called: this run does no more work."""
        return self._worker.stopped

    def stop(self) -> None:
        """Let the batch under way end soon, with the forms appended until then."""
        self._worker.stop()

    def close(self) -> None:
        self._worker.close()


def optimize_report(before: Statistics, after: Statistics, damaged: int) -> dict[str, Any]:
    """Return the sizes before and after a run, ready for JSON.

    `damaged` is the number of chunks and tensors that could not be read.
    """
    return {
        "logical_bytes": after.logical_bytes,
        "stored_before": before.stored_bytes,
        "stored_after": after.stored_bytes,
        "damaged": damaged,
        "forms": after.to_dict()["forms"],
    }
