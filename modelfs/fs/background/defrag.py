"""Defragmenting beside the requests, a portion at a time."""

from collections.abc import Iterator
from functools import partial

from modelfs.fs.background.context import Context
from modelfs.jobs.defrag.job import copy_portion
from modelfs.jobs.defrag.order import DefragPlan
from modelfs.jobs.defrag.rewrite import Defragmenter


class BackgroundDefrag:
    """Brings scattered files together. There is nothing to remember between two plans."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._defragmenter = Defragmenter(context.store)
        self._portions: Iterator[DefragPlan] | None = None
        self.done = 0  # bytes
        self.total = 0

    def drop_plan(self) -> None:
        """Forget the plan, because the store goes on to change."""
        self._portions = None
        self.done = self.total = 0

    async def copy_next(self) -> bool:
        """Copy a portion, after making a plan if there is none; say whether there was one.

        Raises:
            StoreFull, OSError: it could not be copied; nothing is lost.
        """
        call = self._context.driver.call
        if self._portions is None:
            plan = await call(self._defragmenter.plan)
            self._portions, self.total = plan.portions(), plan.bytes
        portion = next(self._portions, None)
        if portion is None or not await call(partial(self._defragmenter.has_room, portion)):
            self.drop_plan()
            return False
        # Packs are deleted at the end, so no reader may have them pinned.
        async with self._context.pack_lock.exclusive():
            if not self.done:
                self._defragmenter.begin_pack()
            copied = copy_portion(self._context.store, portion)
            self.done += await self._context.driver.run(copied)
        return True
