"""Defragmentation beside the requests, one portion at a time."""

from modelfs.fs.background.context import Context
from modelfs.jobs.defrag.job import DefragRun


class BackgroundDefrag:
    """Rewrites the chunks of scattered files next to each other.

    A plan is copied in portions. Nothing is remembered from one plan to the next: a new plan starts
    from the store as it is.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._run = DefragRun(context.store)

    @property
    def done(self) -> int:
        """Bytes of the plan that are copied."""
        return self._run.done

    @property
    def total(self) -> int:
        """Bytes of the plan; 0 before it is made."""
        return self._run.total

    def drop_plan(self) -> None:
        """Drop the plan, before requests change the store."""
        self._run = DefragRun(self._context.store)

    async def copy_next(self) -> bool:
        """Copy the next portion of the plan, or of a new one; return False if there is none.

        Raises:
            StoreFull, OSError: the portion could not be copied; nothing is lost.
        """
        run = self._run
        portion = await self._context.driver.run(run.next_portion())
        if portion is None:
            self.drop_plan()
            return False
        # Exclusive, because the packs that were copied are deleted at the end.
        async with self._context.pack_lock.exclusive():
            await self._context.driver.run(run.copy(portion))
        return True
