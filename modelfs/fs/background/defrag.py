"""Defragmentation beside the requests, one portion at a time."""

from collections.abc import Iterator
from functools import partial

from modelfs.fs.background.context import Context
from modelfs.jobs.defrag.job import copy_portion
from modelfs.jobs.defrag.order import DefragPlan
from modelfs.jobs.defrag.rewrite import Defragmenter


class BackgroundDefrag:
    """Rewrites the chunks of scattered files next to each other, by a plan made in portions.

    Nothing is remembered from one plan to the next: a new plan starts from the store as it is.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._defragmenter = Defragmenter(context.store)
        self._portions: Iterator[DefragPlan] | None = None
        self.done = 0  # bytes
        self.total = 0

    def drop_plan(self) -> None:
        """Drop the plan, before requests change the store."""
        self._portions = None
        self.done = self.total = 0

    async def copy_next(self) -> bool:
        """Copy the next portion of the plan, or of a new one; return False if there is none.

        Raises:
            StoreFull, OSError: the portion could not be copied; nothing is lost.
        """
        call = self._context.driver.call
        if self._portions is None:
            plan = await call(self._defragmenter.plan)
            self._portions, self.total = plan.portions(), plan.bytes
        portion = next(self._portions, None)
        if portion is None or not await call(partial(self._defragmenter.has_room, portion)):
            self.drop_plan()
            return False
        # Exclusive, because the packs that were copied are deleted at the end.
        async with self._context.pack_lock.exclusive():
            if not self.done:
                self._defragmenter.begin_pack()
            copying = copy_portion(self._context.store, portion)
            self.done += await self._context.driver.run(copying)
        return True
