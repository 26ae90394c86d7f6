"""The commands that the daemon carries out for other processes: see `control`.

::

    command       arguments                      result
    stats                                        `Statistics`
    sync                                         nothing
    gc            dry_run                        `Garbage`, and dry_run
    optimize      depth, again                   `optimize_report`
    optimize-room                                `OptimizeRoom`
    inspect       inode                          `FileReport`
    warm          inode                          files (0 or 1) and bytes that are hot
    cool          inode                          files (0 or 1) that are no more hot
    hold                                         nothing; packs are pinned until the client hangs up
    scrub         rate (bytes a second), anew    `scrub_report`, at the end; with a rate, at once
    scrub-stop                                   `scrub_report`
    scrub-status                                 `scrub_report`
"""

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, Final, TypeVar

import trio

from modelfs.errors import InvalidArgument, StoreFull
from modelfs.fs.background.context import AsyncProgress
from modelfs.fs.background.scheduler import Scheduler
from modelfs.jobs.gc.collector import LIVE_MIN_SMALL
from modelfs.jobs.inspect import file as inspect_file
from modelfs.jobs.optimize.job import optimize_report
from modelfs.jobs.optimize.room import room_for
from modelfs.jobs.steps import slices
from modelfs.store.chunks.lineage import CHAIN_MAX
from modelfs.store.index.tables import KEY_MAX, InodeNumber
from modelfs.store.statistics import Statistics, Waiting
from modelfs.store.store import Store

RATE_MAX: Final = 1 << 62
# Files counted in one step of the event loop: some milliseconds.
WAITING_SLICE: Final = 1000

T = TypeVar("T")

Json = dict[str, Any]


class Commands:
    """The commands of one mounted store. Each takes a request and returns its result."""

    def __init__(
        self,
        store: Store,
        background: Scheduler,
        workers: trio.CapacityLimiter,
    ) -> None:
        self._store = store
        self._background = background
        self._workers = workers
        self._by_name: dict[str, Callable[[Json, AsyncProgress], Awaitable[Json]]] = {
            "stats": self.stats,
            "sync": self.sync,
            "gc": self.gc,
            "optimize": self.optimize,
            "optimize-room": self.optimize_room,
            "inspect": self.inspect,
            "warm": self.warm,
            "cool": self.cool,
            "hold": self.hold,
            "scrub": self.scrub,
            "scrub-stop": self.scrub_stop,
            "scrub-status": self.scrub_status,
        }

    async def run(self, request: Json, progress: AsyncProgress) -> Json:
        """Carry out a request, and return its result.

        Raises:
            InvalidArgument: there is no such command, or an argument has a wrong value.
            ModelfsError, OSError: the command failed.
        """
        name = request.get("command")
        if not isinstance(name, str) or name not in self._by_name:
            raise InvalidArgument(f"unknown command {name!r}")
        return await self._by_name[name](request, progress)

    async def stats(self, request: Json, progress: AsyncProgress) -> Json:
        disk_bytes = await self._call(self._store.inventory.disk_usage)
        return (await self._statistics(disk_bytes)).to_dict()

    async def _statistics(self, disk_bytes: int) -> Statistics:
        """Return the statistics of the store, while requests come in between."""
        waiting = Waiting(await self._call(self._store.inventory.count_to_optimize))
        for inodes in slices(await self._call(self._store.inventory.requested), WAITING_SLICE):
            self._store.inventory.count_waiting((), inodes, waiting)
            await trio.lowlevel.checkpoint()
        for staged_files in slices([*self._store.staging], WAITING_SLICE):
            self._store.inventory.count_waiting(staged_files, (), waiting)
            await trio.lowlevel.checkpoint()
        return self._store.inventory.statistics(disk_bytes, waiting)

    async def _call(self, function: Callable[[], T]) -> T:
        """Call a function on a thread, and return its result."""
        return await trio.to_thread.run_sync(function, limiter=self._workers)

    async def _ingest(self, progress: AsyncProgress | None = None) -> None:
        """Ingest all files. Those that were just removed go first: a full disk may need their room.

        Raises: as `BackgroundIngest.sync`.
        """
        with contextlib.suppress(StoreFull, OSError):  # ingest has the same error, or has room
            await self._background.gc.remove_orphans()
        await self._background.ingest.sync(progress)

    async def sync(self, request: Json, progress: AsyncProgress) -> Json:
        with self._background.shortage.urgent():
            await self._background.mapped_pages.sync_all()
        await self._ingest(progress)
        return {}

    async def gc(self, request: Json, progress: AsyncProgress) -> Json:
        if request.get("dry_run"):
            return {**asdict(await self._background.gc.survey_exactly()), "dry_run": True}
        garbage = await self._background.gc.collect(LIVE_MIN_SMALL)
        return {**asdict(garbage), "dry_run": False}

    async def optimize(self, request: Json, progress: AsyncProgress) -> Json:
        depth = request.get("depth")
        if depth is not None and (not isinstance(depth, int) or not 1 <= depth <= CHAIN_MAX):
            raise InvalidArgument(f"depth is a number from 1 to {CHAIN_MAX}")
        await self._ingest()
        before = await self._statistics(0)
        optimize = self._background.optimize
        try:
            await optimize.follow(progress, depth, include_optimized=bool(request.get("again")))
        finally:
            await self._background.durability.commit()
        await self._background.gc.collect(LIVE_MIN_SMALL)
        return optimize_report(before, await self._statistics(0), optimize.backlog.damaged)

    async def optimize_room(self, request: Json, progress: AsyncProgress) -> Json:
        status = await self._call(self._background.optimize.backlog.status)
        work = status.bytes + (await self._statistics(0)).staged_bytes
        return asdict(await self._call(lambda: room_for(self._store, work)))

    async def inspect(self, request: Json, progress: AsyncProgress) -> Json:
        state = inspect_file.state_of(self._store, _inode(request))
        return await self._call(lambda: inspect_file.report_on(self._store, state).to_dict())

    async def warm(self, request: Json, progress: AsyncProgress) -> Json:
        inode = _inode(request)
        hot = await self._background.hot.warm_now(inode)
        copy = self._store.staging.wholes.copies.find(inode)
        return {"files": int(hot), "bytes": copy.disk_bytes() if copy is not None else 0}

    async def cool(self, request: Json, progress: AsyncProgress) -> Json:
        copies, inode = self._store.staging.wholes.copies, _inode(request)
        was_hot = copies.find(inode) is not None
        return {"files": int(was_hot and copies.drop(inode))}

    async def hold(self, request: Json, progress: AsyncProgress) -> Json:
        # After a commit no pack is deleted any more that an earlier commit dropped. `Control` keeps
        # later ones from being deleted.
        await self._background.durability.commit()
        return {}

    async def scrub(self, request: Json, progress: AsyncProgress) -> Json:
        rate = request.get("rate", 0)
        if not isinstance(rate, int) or not 0 <= rate <= RATE_MAX:
            raise InvalidArgument("rate is a number of bytes per second")
        scrub = self._background.scrub
        joins = scrub.running and not rate
        if not joins:
            scrub.begin(restart=bool(request.get("anew")), rate=rate)
        if not rate:
            try:
                await scrub.follow(progress)
            except BaseException:
                # The client hung up, and no other has asked for this scrub.
                if not joins:
                    scrub.pause()
                raise
        return await scrub.report()

    async def scrub_stop(self, request: Json, progress: AsyncProgress) -> Json:
        self._background.scrub.pause()
        return await self._background.scrub.report()

    async def scrub_status(self, request: Json, progress: AsyncProgress) -> Json:
        return await self._background.scrub.report()


def _inode(request: Json) -> InodeNumber:
    """Return the inode of a request.

    Raises:
        InvalidArgument: it has none.
    """
    inode = request.get("inode")
    if not isinstance(inode, int) or not 0 <= inode <= KEY_MAX:
        raise InvalidArgument("the command needs an inode")
    return InodeNumber(inode)
