"""Defragmentation, as jobs."""

import logging
from collections.abc import Callable
from functools import partial

from modelfs.jobs.defrag.order import DefragPlan
from modelfs.jobs.defrag.rewrite import Defragmenter
from modelfs.jobs.steps import Commit, Job, Work, pausing
from modelfs.store.store import Store

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


def copy_portion(store: Store, portion: DefragPlan) -> Job[int]:
    """Copy a portion of a plan, and return the number of bytes copied.

    The caller holds off other writers of packs, and readers that need packs to stay.

    Raises:
        StoreFull, OSError: the portion could not be copied; nothing is lost.
    """
    with store.writing() as writer:
        copied, result = yield Work(partial(Defragmenter(store).copy, portion, writer))
    yield from pausing(
        store.publish(result, lambda chunk, _: store.chunks.is_unmoved(chunk, copied[chunk]))
    )
    yield from pausing(store.reclaimer.retire_empty_packs())
    yield Commit()
    return sum(record.stored for record in copied.values())


def defragment(
    store: Store,
    progress: Progress | None = None,
    make_room: Callable[[], Job[object]] | None = None,
) -> Job[None]:
    """Copy the chunks of scattered files into order, and commit after each portion.

    Args:
        store: the store.
        progress: called with the bytes copied so far, and those of the whole plan.
        make_room: a job that collects garbage, run when the disk has too little room.

    Raises:
        StoreFull, OSError: a portion could not be copied; nothing is lost.
    """
    defragmenter = Defragmenter(store)
    plan: DefragPlan = yield Work(defragmenter.plan)
    done = 0
    for portion in plan.portions():
        has_room = yield Work(partial(defragmenter.has_room, portion))
        if not has_room and make_room is not None:
            yield from make_room()
            has_room = yield Work(partial(defragmenter.has_room, portion))
        if not has_room:
            log.warning(
                "defragmentation stopped: too little free space to copy %d bytes", portion.bytes
            )
            return
        if not done:
            defragmenter.begin_pack()
        done += yield from copy_portion(store, portion)
        if progress is not None:
            progress(done, plan.bytes)
