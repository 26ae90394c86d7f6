"""A run of the optimizer as a whole: batches, then the defragmenter's portions, with gc in between.

Theory of operation. New forms are appended, and the old ones are garbage until a collection. So
before each batch garbage is collected if there is much of it (see `optimize.room`). A batch that
finds no room is tried once more after a collection of all garbage. When no batch is left, scattered
files are brought together, a portion at a time. A run ends when nothing is left that it can do.

Between two parts, a run may *rest*: it gives back its threads, and its plan, which requests may
make stale. The next part goes on where the last one ended, as the backlog is in the index.

Example. A fine-tune of 6 GiB is in the backlog of a store of 10 GiB, on a disk with 4 GiB free.
Each part of the run is a batch of 64 MiB. After nine of them their old forms are more than the
bound of 512 MiB, and packs with few live bytes are rewritten. The 97th part finds no batch left,
and copies the first 64 MiB of the files that are scattered now.
"""

import os
from functools import partial

from modelfs.errors import StoreFull
from modelfs.jobs.composed.collect import collect_all
from modelfs.jobs.defrag.job import DefragRun
from modelfs.jobs.gc.collector import Collector
from modelfs.jobs.gc.job import OrphanQueue, collect, collect_above
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.job import Optimizer
from modelfs.jobs.optimize.room import garbage_max
from modelfs.jobs.steps import Job, Pause, Progress, Work
from modelfs.store.store import Store


class OptimizeRun:
    """One run, part by part. Let it rest at the end."""

    def __init__(self, store: Store, backlog: Backlog, collector: Collector) -> None:
        """Begin a run over a backlog of the store."""
        self._store = store
        self._backlog = backlog
        self._collector = collector
        self._optimizer: Optimizer | None = None  # with its threads, while the run is not resting
        self._defrag = self._new_defrag()
        self._had_no_room = False  # for the last part
        self._optimized = 0  # bytes of tensors
        self.backlog_bytes = 0  # at the beginning, for the progress; 0 until its owner sets it

    @property
    def done(self) -> int:
        """Bytes of files that are optimized, and bytes of chunks that are copied."""
        return min(self._optimized, self.backlog_bytes) + self._defrag.done

    @property
    def total(self) -> int:
        """Bytes that are to be done, as far as they are known."""
        return self.backlog_bytes + self._defrag.total

    @property
    def at_work(self) -> bool:
        """Whether the optimizer has its threads."""
        return self._optimizer is not None

    def advance(self, threads: int) -> Job[bool]:
        """Optimize the next batch, or bring the next files together; return False at the end.

        Args:
            threads: that encode at the same time, from the next rest on.

        Raises:
            StoreFull: no room, twice in a row; nothing is lost.
            OSError: the disk failed; nothing is lost.
        """
        was_full, self._had_no_room = self._had_no_room, False
        try:
            bound = 0 if was_full else garbage_max(self._store)
            yield from collect_above(self._store, self._collector, bound)
            self._backlog.fit_batches()
            has_batch = yield from self._optimize_batch(threads)
            return has_batch or (yield from self._defrag.copy_next())
        except StoreFull:
            if was_full:
                raise
            self._had_no_room = True  # once more, after a collection
            return True

    def _optimize_batch(self, threads: int) -> Job[bool]:
        """Optimize the next batch; return False if there is none."""
        if self._optimizer is None:
            self._optimizer = Optimizer(self._store, self._backlog, threads)
        result = yield from self._optimizer.optimize_batch()
        if self._optimizer.stopped:
            self._close_optimizer()
        if result is None:
            self._optimized = self.backlog_bytes  # bytes outside of tensors count as done
            return False
        if not result.stopped:
            self._optimized += result.batch.bytes
        return True

    def to_end(self, threads: int, progress: Progress | None = None) -> Job[None]:
        """Do all parts, and call `progress` after each. Raises as `advance` does."""
        self.backlog_bytes = (yield Work(self._backlog.status)).bytes
        try:
            while (yield from self.advance(threads)):
                if progress is not None:
                    progress(self.done, self.total)
                yield Pause()
        finally:
            self.rest()

    def stop_batch(self) -> None:
        """Let the batch under way end soon, with the forms appended until then. Any time."""
        if self._optimizer is not None:
            self._optimizer.stop()

    def rest(self) -> None:
        """Give back the threads and drop the plan of defragmentation, between two parts."""
        self._close_optimizer()
        self._defrag = self._new_defrag()

    def _new_defrag(self) -> DefragRun:
        return DefragRun(self._store, partial(collect, self._store, self._collector))

    def _close_optimizer(self) -> None:
        if self._optimizer is not None:
            self._optimizer.close()
            self._optimizer = None


def optimize_all(
    store: Store, backlog: Backlog, collector: Collector, progress: Progress | None = None
) -> Job[None]:
    """Optimize an unmounted store to the end with all processors, and collect the garbage.

    Args:
        store: the store.
        backlog: of that store, after `begin`.
        collector: of that store.
        progress: called with the bytes that are done, and all bytes.

    Raises:
        StoreFull: no room for the new forms; nothing is lost.
        OSError: the disk failed; nothing is lost.
    """
    threads = os.cpu_count() or 1
    yield from OptimizeRun(store, backlog, collector).to_end(threads, progress)
    orphans = OrphanQueue(store, store.orphans.inodes())
    yield from collect_all(store, collector, orphans, threads=threads)
