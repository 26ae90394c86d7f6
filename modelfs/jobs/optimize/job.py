"""Optimizing a store that nobody has mounted: everything here and now, by one thread.

First each chunk gets its smallest form, then scattered files are brought together.
"""

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from modelfs.jobs.defrag.order import DefragPlan
from modelfs.jobs.optimize.batch import Batch, BatchResult
from modelfs.jobs.optimize.worker import Worker
from modelfs.store.statistics import Statistics
from modelfs.store.store import Store

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

COMMIT_SECONDS: Final = 5.0


def optimize(
    store: Store,
    progress: Progress | None = None,
    *,
    depth: int | None = None,
    again: bool = False,
) -> None:
    """Give every chunk of every tensor its smallest form, and commit.

    What was done when this is interrupted, by an exception, is kept.

    Args:
        store: to be optimized; the calling thread owns it.
        progress: told how many bytes of files are done, and how many there are.
        depth: how many deltas may stand between a chunk and stored bytes; None: as before.
        again: look at what was optimized before, too.

    Raises:
        StoreFull: no room for what was encoded; nothing is lost.
    """
    store.optimizer.begin(depth, again=again)
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
    pack(store, progress and (lambda some, more: progress(total + some, total + more)))


def pack(store: Store, progress: Progress | None = None) -> None:
    """Bring the chunks of scattered files together, and commit. See `store.packing`.

    Args:
        store: as for `optimize`.
        progress: told how many bytes are copied, and how many are to be.

    Raises:
        StoreFull, OSError: a portion could not be copied; nothing is lost.
    """
    packing = store.packer.plan()
    done = 0
    for portion in packing.portions():
        if not store.packer.has_room(portion) and not _made_room(store, portion):
            log.warning("not all scattered files are brought together: too little room")
            return
        if not done:
            store.packer.begin_pack()
        done += _pack(store, portion)
        if progress is not None:
            progress(done, packing.bytes)


def _made_room(store: Store, portion: DefragPlan) -> bool:
    store.collect()
    return store.packer.has_room(portion)


def _pack(store: Store, portion: DefragPlan) -> int:
    with store.writing() as writer:
        copied = store.packer.copy(portion, writer)
        written = writer.finish()
    while not store.intake.publish(written, lambda chunk, _: store.packer.admits(copied, chunk)):
        pass
    _commit(store)
    return sum(record.stored for record in copied.values())


def optimized(store: Store, before: Statistics) -> dict[str, Any]:
    """Return what a run came to, as JSON can hold it."""
    after = store.statistics(0)
    return {
        "logical_bytes": after.logical_bytes,
        "stored_before": before.stored_bytes,
        "stored_after": after.stored_bytes,
        "damaged": store.optimizer.damaged,
        "forms": after.forms,
    }


def _settle(store: Store, settler: Worker, batch: Batch) -> BatchResult:
    with store.writing() as writer:
        result = settler.work(batch, writer)
    admits = partial(store.optimizer.admits, result)
    while not store.intake.publish(result.written, admits):
        pass
    while not store.optimizer.take(result):
        pass
    return result


def _commit(store: Store) -> None:
    store.retire_empty_packs()
    store.commit()
