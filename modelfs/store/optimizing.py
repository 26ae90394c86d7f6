"""Optimizing a store that nobody has mounted: everything here and now, by one thread."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from modelfs.store.settled import Batch, Settled
from modelfs.store.settler import Settler
from modelfs.store.stats import Statistics
from modelfs.store.store import Store

Progress = Callable[[int, int], None]

COMMIT_SECONDS: Final = 5.0


def optimize(store: Store, progress: Progress | None = None, *, depth: int | None = None) -> None:
    """Give every chunk of every tensor its smallest form, and commit.

    What was done when this is interrupted, by an exception, is kept.

    Args:
        store: to be optimized; the calling thread owns it.
        progress: told how many bytes of files are done, and how many there are.
        depth: how many deltas may stand between a chunk and stored bytes; None: as before.

    Raises:
        StoreFull: no room for what was encoded; nothing is lost.
    """
    store.optimizer.begin(depth)
    settler = store.settler(threads=os.cpu_count() or 1)
    total, done = store.optimizer.status().bytes, 0
    committed = time.monotonic()
    try:
        while (batch := store.optimizer.next_batch()) is not None:
            done += _settle(store, settler, batch).batch.bytes
            if progress is not None:
                progress(min(done, total), total)
            if time.monotonic() - committed > COMMIT_SECONDS:
                _commit(store)
                committed = time.monotonic()
    finally:
        settler.close()
        _commit(store)


def optimized(before: Statistics, after: Statistics) -> dict[str, Any]:
    """Return what a run came to, as JSON can hold it."""
    return {
        "logical_bytes": after.logical_bytes,
        "stored_before": before.stored_bytes,
        "stored_after": after.stored_bytes,
        "forms": after.forms,
    }


def _settle(store: Store, settler: Settler, batch: Batch) -> Settled:
    writer = store.writer()
    try:
        settled = settler.work(batch, writer)
    except BaseException:
        store.give_up_writer()
        raise
    admits = partial(store.optimizer.admits, settled)
    while not store.intake.take_written(settled.written, admits):
        pass
    while not store.optimizer.take(settled):
        pass
    return settled


def _commit(store: Store) -> None:
    for pack in store.collector.empty_packs():
        store.leave_pack(pack)
        store.collector.retire(pack)
    store.commit()
