"""Defragmentation, as jobs."""

import logging
from collections.abc import Callable, Iterator
from functools import partial

from modelfs.jobs.defrag.order import DefragPlan
from modelfs.jobs.defrag.rewrite import Defragmenter
from modelfs.jobs.steps import Commit, Job, Progress, Work, pausing
from modelfs.store.store import Store

log = logging.getLogger(__name__)

MakeRoom = Callable[[], Job[object]]


class DefragRun:
    """One run of defragmentation: a plan that is copied in portions.

    The plan is made with the first portion, from the store as it is then.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._defragmenter = Defragmenter(store)
        self._portions: Iterator[DefragPlan] | None = None
        self.done = 0  # bytes
        self.total = 0

    def next_portion(self, make_room: MakeRoom | None = None) -> Job[DefragPlan | None]:
        """Return the next portion; None at the end, or if the disk has too little room.

        Args:
            make_room: a job that collects garbage, run when the disk has too little room.
        """
        if self._portions is None:
            plan: DefragPlan = yield Work(self._defragmenter.plan)
            self._portions, self.total = plan.portions(), plan.bytes
        portion = next(self._portions, None)
        if portion is None:
            return None
        has_room = yield Work(partial(self._defragmenter.has_room, portion))
        if not has_room and make_room is not None:
            yield from make_room()
            has_room = yield Work(partial(self._defragmenter.has_room, portion))
        if not has_room:
            log.warning(
                "defragmentation stopped: too little free space for %d bytes", portion.bytes
            )
            return None
        return portion

    def copy(self, portion: DefragPlan) -> Job[None]:
        """Copy a portion, and commit.

        The caller holds off other writers of packs, and readers that need packs to stay.

        Raises:
            StoreFull, OSError: the portion could not be copied; nothing is lost.
        """
        if not self.done:
            self._defragmenter.begin_pack()
        with self._store.writing() as writer:
            copied, result = yield Work(partial(self._defragmenter.copy, portion, writer))
        chunks = self._store.chunks
        yield from pausing(
            self._store.publish(result, lambda chunk, _: chunks.is_unmoved(chunk, copied[chunk]))
        )
        yield from pausing(self._store.reclaimer.retire_empty_packs())
        yield Commit()
        self.done += sum(record.stored for record in copied.values())


def defragment(
    store: Store, progress: Progress | None = None, make_room: MakeRoom | None = None
) -> Job[None]:
    """Copy the chunks of scattered files into order, and commit after each portion.

    Args:
        store: the store.
        progress: called with the bytes copied so far, and those of the whole plan.
        make_room: as of `DefragRun.next_portion`.

    Raises:
        StoreFull, OSError: a portion could not be copied; nothing is lost.
    """
    run = DefragRun(store)
    while (portion := (yield from run.next_portion(make_room))) is not None:
        yield from run.copy(portion)
        if progress is not None:
            progress(run.done, run.total)
