"""Defragmenting, as jobs."""

import logging
from collections.abc import Callable
from functools import partial

from modelfs.jobs.defrag.order import DefragPlan
from modelfs.jobs.defrag.rewrite import Defragmenter
from modelfs.jobs.steps import Commit, Job, Work, pausing
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.index.records import Chunk
from modelfs.store.index.tables import ChunkId
from modelfs.store.store import Store

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Copied = dict[ChunkId, Chunk]


def copy_portion(store: Store, portion: DefragPlan) -> Job[int]:
    """Copy a portion of a plan, and return how many bytes that were.

    Nobody else may append to packs meanwhile, and nobody may rely on a pack to stay.

    Raises:
        StoreFull, OSError: the portion could not be copied; nothing is lost.
    """
    with store.writing() as writer:
        copied, result = yield Work(partial(_copy, Defragmenter(store), portion, writer))
    yield from pausing(
        store.publish(result, lambda chunk, _: store.chunks.is_unmoved(chunk, copied[chunk]))
    )
    yield from pausing(store.reclaimer.retire_empty_packs())
    yield Commit()
    return sum(record.stored for record in copied.values())


def _copy(
    defragmenter: Defragmenter, portion: DefragPlan, writer: ChunkWriter
) -> tuple[Copied, WriteResult]:
    return defragmenter.copy(portion, writer), writer.finish()


def defragment(
    store: Store,
    progress: Progress | None = None,
    make_room: Callable[[], Job[object]] | None = None,
) -> Job[None]:
    """Bring the chunks of scattered files together, and commit.

    Args:
        store: the store.
        progress: called with the bytes that are copied and all that are to be.
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
            log.warning("not all scattered files are brought together: too little room")
            return
        if not done:
            defragmenter.begin_pack()
        done += yield from copy_portion(store, portion)
        if progress is not None:
            progress(done, plan.bytes)
