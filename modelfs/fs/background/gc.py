"""Garbage collection beside the requests: deleted content is removed, and its room freed.

The `scheduler` has the garbage measured and collected every 20 s, and every second while room is
short. A rewrite copies the live bytes of a pack. So which packs are rewritten depends on their live
part, on whether programs use the store at the moment, and on how short room is. Chunks that only
derived chunks need are garbage, too: their dependants are encoded without them first.

Example. A store of 100 GB gets a new version of a 14 GB model, and the old one is deleted. Its
inode becomes an orphan, and is removed within a second: 14 GB are garbage in the packs. Within a
minute sparse packs are rewritten. If fine-tunes derive from the old version, one of them becomes
the base of the others before that.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from modelfs.fs.background.context import Context
from modelfs.fs.background.ingest import BackgroundIngest
from modelfs.jobs.composed.collect import collect_all, survey
from modelfs.jobs.gc.collector import (
    LIVE_MIN,
    LIVE_MIN_BUSY,
    LIVE_MIN_IDLE,
    LIVE_MIN_SHORT,
    LIVE_MIN_SMALL,
    Collector,
    Garbage,
)
from modelfs.jobs.gc.job import OrphanQueue
from modelfs.store.index.tables import InodeNumber

# Less garbage than this is not worth a collection.
GARBAGE_MIN: Final = 1 << 20
# The store is idle if no program used an open file for so long.
IDLE_SECONDS: Final = 5.0
# Room is short when writers have less than this. Then garbage is collected at once, and in smaller
# amounts.
SHORT_BYTES: Final = 1 << 30
SHORT_PART: Final = 0.05
SHORT_GARBAGE_MIN: Final = 1 << 20
# df(1) shows the garbage as free; it is looked at again after so many seconds.
SURVEY_SECONDS: Final = 1.0
# A collection beside a survey makes it stale at once. Survey once more, and show that one.
SURVEYS_MAX: Final = 2


class _Survey(NamedTuple):
    """The garbage that df(1) shows as free."""

    freed_bytes: int
    version: int  # of the reclaimer, when the survey began
    at: float  # monotonic seconds


class BackgroundGc:
    """Removes orphans, and collects garbage when that is worth it or room is short."""

    def __init__(self, context: Context, ingest: BackgroundIngest, collector: Collector) -> None:
        self._context = context
        self._store = context.store
        self._collector = collector
        self._survey = _Survey(0, 0, -math.inf)  # the last one for df(1)
        self._orphans = OrphanQueue(context.store, before_removal=ingest.forget)
        self._uncollectable = 0  # bytes of garbage that the last collection for room left

    def start(self) -> None:
        """Queue the orphans of an earlier run of the daemon."""
        self._orphans.add(self._store.orphans.inodes())

    def add_orphan(self, inode: InodeNumber) -> None:
        """Queue an inode that has no name, and that no program can reach any more."""
        self._orphans.add([inode])

    async def survey(self, live_min: float = LIVE_MIN_SMALL) -> Garbage:
        """Return the garbage that `collect` would find; reads segment tables of packs."""
        return await self._context.driver.call(partial(self._collector.measured, live_min))

    async def survey_exactly(self) -> Garbage:
        """Return the garbage that a command's collection would find; encodes chunks for that."""
        return await self._context.driver.call(partial(survey, self._store, self._collector))

    async def shown_bytes(self) -> int:
        """Return how many bytes a collection would free, about, for df(1).

        Bytes freed since the last survey are free on the disk already, and must not count twice.
        """
        began = time.monotonic()
        is_old = began > self._survey.at + SURVEY_SECONDS
        for _ in range(SURVEYS_MAX):
            version = self._store.reclaimer.version
            if not is_old and version == self._survey.version:
                break
            is_old = False
            garbage = await self._context.driver.call(
                lambda: self._collector.survey(LIVE_MIN_SHORT)
            )
            self._survey = _Survey(garbage.freed_bytes, version, began)
        return self._survey.freed_bytes

    async def collect(
        self, live_min: float = LIVE_MIN, enough: Callable[[], bool] = lambda: False
    ) -> Garbage:
        """Remove orphans, dead chunks and base-only chunks, and rewrite sparse packs.

        For the arguments, the result and the exceptions see `collect_all`.
        """
        return await self._context.driver.run(
            collect_all(self._store, self._collector, self._orphans, live_min, enough, threads=1)
        )

    def _is_short(self) -> bool:
        room = self._store.space.room()
        return room.free < min(SHORT_BYTES, SHORT_PART * room.total)

    async def remove_orphans(self) -> None:
        """Remove the queued orphans.

        Raises:
            StoreFull, OSError: a commit on the way failed; the other orphans are still queued.
        """
        await self._context.driver.run(self._orphans.remove())

    async def collect_if_worthwhile(self) -> None:
        """Collect if there is garbage that is worth the work at the moment."""
        is_idle = self._context.handles.idle_seconds() > IDLE_SECONDS
        live_min = LIVE_MIN_IDLE if is_idle else LIVE_MIN_BUSY
        if self._is_short():
            live_min = max(live_min, LIVE_MIN_SHORT)
        if (await self.survey(live_min)).freed_bytes >= GARBAGE_MIN:
            await self.collect(live_min)

    async def collect_if_short(self) -> None:
        """Collect if writers have little room left."""
        if self._store.space.may_have_changed:
            await self._context.driver.call(self._store.space.measure)
        if not self._is_short():
            self._uncollectable = 0
            return
        # The garbage that a collection left is not tried again until there is more of it.
        garbage = (await self.survey(LIVE_MIN_SHORT)).freed_bytes
        if garbage < self._uncollectable + SHORT_GARBAGE_MIN:
            return
        try:
            await self.collect(LIVE_MIN_SHORT)
        finally:
            self._uncollectable = (await self.survey(LIVE_MIN_SHORT)).freed_bytes

    async def collect_for_room(self, enough: Callable[[], bool]) -> None:
        """Collect for a request that waits, until there is enough room, or packs are pinned.

        Raises:
            StoreFull, OSError: as `collect`.
        """
        with self._context.pack_lock.until_pinned():
            for live_min in (LIVE_MIN_SHORT, LIVE_MIN_SMALL):
                if not enough() and (await self.survey(live_min)).freed_bytes >= GARBAGE_MIN:
                    await self.collect(live_min, enough)
