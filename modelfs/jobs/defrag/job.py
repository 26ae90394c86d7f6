"""Defragmentation, as jobs."""

import logging
from collections.abc import Callable, Iterator
from functools import partial

from modelfs.jobs.defrag.order import DefragPlan
from modelfs.jobs.defrag.rewrite import Defragmenter
from modelfs.jobs.steps import Commit, Job, Work, exclusive, pausing
from modelfs.store.store import Store

log = logging.getLogger(__name__)

MakeRoom = Callable[[], Job[object]]


class DefragRun:
    """One run of defragmentation: a plan that is copied in portions.

    The plan is made with the first portion, from the store as it is then.
    """

    def __init__(self, store: Store, make_room: MakeRoom) -> None:
        """Begin a run; `make_room` collects garbage, when the disk has too little room."""
        self._store = store
        self._make_room = make_room
        self._defragmenter = Defragmenter(store)
        self._portions: Iterator[DefragPlan] | None = None
        self._portion: DefragPlan | None = None  # the next one, until it is copied
        self.done = 0  # bytes
        self.total = 0

    def copy_next(self) -> Job[bool]:
        """Copy the next portion, and commit.

        Returns:
            False at the end, or if the disk has too little room.

        Raises:
            StoreFull, OSError: the portion could not be copied, and is still the next one; nothing
                is lost.
        """
        portion = yield from self._next_portion()
        if portion is not None:
            yield from exclusive(self._copy(portion))
            self._portion = None
        return portion is not None

    def _next_portion(self) -> Job[DefragPlan | None]:
        if self._portions is None:
            yield Commit()  # deletes packs that became empty, and so makes room
            plan: DefragPlan = yield Work(self._defragmenter.plan)
            self._portions, self.total = plan.portions(), plan.bytes
        if self._portion is None:
            self._portion = next(self._portions, None)
        if (portion := self._portion) is None:
            return None
        has_room = yield Work(partial(self._defragmenter.has_room, portion))
        if not has_room:
            yield from self._make_room()
            has_room = yield Work(partial(self._defragmenter.has_room, portion))
        if not has_room:
            log.warning(
                "defragmentation stopped: too little free space for %d bytes", portion.bytes
            )
            return None
        return portion

    def _copy(self, portion: DefragPlan) -> Job[None]:
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
