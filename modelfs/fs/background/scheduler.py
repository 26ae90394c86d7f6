"""The scheduler of the background jobs, by which written data moves to the disk and into chunks.

Requests change the store in memory. Behind them

- `mapped_pages` makes the kernel send pages that were written through mappings;
- `durability` flushes and commits, after some seconds or when a program waits for an fsync, and
  `gate` holds up changes until the commits keep up;
- `ingest` makes chunks of staged content;
- `gc` removes deleted content, and frees its room;
- `optimize` gives stored chunks their smallest form, and then defragments;
- `shortage` lets requests wait while ingest and gc make room;
- `hot` keeps copies of files that are read much, for the kernel to read;
- `scrub` reads all stored bytes, to find those that the disk has lost;
- `pack_lock` lets one of them at a time append to packs.

All of them run at the same time. The store is changed on the event loop only, between two awaits;
slow calls run on threads and change nothing.

Example. A program writes a file of 10 MiB and closes it. A second later `ingest` makes its chunks,
within five more `durability` commits them, and after a minute without requests `optimize` encodes
them.
"""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from modelfs.errors import ModelfsError, StoreFull
from modelfs.fs.background.borrowers import StoredFiles
from modelfs.fs.background.context import Context
from modelfs.fs.background.drive import Driver
from modelfs.fs.background.durability import Durability
from modelfs.fs.background.gate import Gate
from modelfs.fs.background.gc import BackgroundGc
from modelfs.fs.background.hot import HotCopies
from modelfs.fs.background.ingest import BackgroundIngest
from modelfs.fs.background.loans import Loans
from modelfs.fs.background.mapped_pages import MappedPages
from modelfs.fs.background.optimize import BackgroundOptimize
from modelfs.fs.background.pack_lock import PackLock
from modelfs.fs.background.rounds import Rounds
from modelfs.fs.background.scrub import BackgroundScrub
from modelfs.fs.background.shortage import Shortage
from modelfs.fs.handles import Handles
from modelfs.jobs.gc.collector import Collector
from modelfs.jobs.hints import all_hints
from modelfs.store.disk.guard import IDLE_SECONDS
from modelfs.store.store import Store

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.25
COLLECT_SECONDS: Final = 20.0
SHORT_SECONDS: Final = 1.0
COPIES_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 10.0  # after an attempt that failed
COMMIT_RETRY_SECONDS: Final = 1.0
ROOM_RETRY_SECONDS: Final = 1.0  # until then requests that need room get ENOSPC
OPTIMIZE_RETRY_SECONDS: Final = 60.0  # no program waits for it


class Scheduler:
    """The background jobs of a mounted store."""

    def __init__(
        self, store: Store, handles: Handles, workers: trio.CapacityLimiter, mountpoint: Path
    ) -> None:
        self._store = store
        self.durability = Durability(store, workers)
        self.gate = Gate(store, self.durability)
        self.mapped_pages = MappedPages(mountpoint, store, handles)
        self.pack_lock = PackLock()
        driver = Driver(self.durability, workers, self.pack_lock)
        context = Context(store, handles, self.durability, driver, self.pack_lock)
        self.ingest = BackgroundIngest(context)
        collector = Collector(store, all_hints(store))
        self.gc = BackgroundGc(context, self.ingest, collector)
        self.optimize = BackgroundOptimize(context, collector)
        self.scrub = BackgroundScrub(context)
        self.hot = HotCopies(context)
        files = StoredFiles(store, driver.call)
        loans = Loans(store.space, lambda: store.staging.bytes, files)
        rounds = Rounds(context, self.ingest, self.gc, self.optimize, loans)
        self.shortage = Shortage(store.space, loans, rounds)

    def start(self) -> None:
        """Queue the work that an earlier run of the daemon left."""
        self.ingest.start()
        self.gc.start()
        self.scrub.start()

    async def mark_in_use(self) -> None:
        """Record durably that a daemon has the store, until `finish` takes that back."""
        self._store.set_in_use(in_use=True)
        try:
            await self.durability.commit()
        except (ModelfsError, OSError) as exc:
            log.warning("cannot record that the store is mounted, the next commit will: %s", exc)

    async def run(self) -> None:
        """Do all background jobs when they are due, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                _repeat, "commit", TICK_SECONDS, self.durability.commit_old, COMMIT_RETRY_SECONDS
            )
            for name, seconds, job in (
                ("flush", TICK_SECONDS, self.durability.flush_old),
                ("giving back the guard", TICK_SECONDS, self._release_guard),
                ("ingest", TICK_SECONDS, self.ingest.ingest_due),
                ("deletion of copies", COPIES_SECONDS, self.hot.keep),
                ("making of copies", COPIES_SECONDS, self.hot.warm_due),
                ("removal of deleted files", TICK_SECONDS, self.gc.remove_orphans),
                ("garbage collection", COLLECT_SECONDS, self.gc.collect_if_worthwhile),
                ("garbage collection", SHORT_SECONDS, self.gc.collect_if_short),
            ):
                nursery.start_soon(_repeat, name, seconds, job)
            for name, task, retry_seconds in (
                ("making room", self.shortage.run, ROOM_RETRY_SECONDS),
                ("scrubbing", self.scrub.run, RETRY_SECONDS),
                ("optimizing", self.optimize.run, OPTIMIZE_RETRY_SECONDS),
            ):
                nursery.start_soon(_keep_running, name, task, retry_seconds)

    async def _release_guard(self) -> None:
        self._store.space.guard.release(IDLE_SECONDS)

    async def finish(self, *, clean: bool = True) -> None:
        """Make everything durable, before the daemon ends.

        Args:
            clean: all written bytes have reached the daemon. If not, the store stays marked.
        """
        self._store.space.guard.close()  # a program may have a file open to the very end
        try:
            await self.durability.flush_all()
            if clean:
                self._store.set_in_use(in_use=False)
        finally:
            await self.durability.commit()


async def _keep_running(
    name: str, task: Callable[[], Awaitable[object]], retry_seconds: float
) -> None:
    """Run a task that ends only when it is cancelled, and begin it again when it fails."""
    while True:
        await _attempt(name, task, retry_seconds)


async def _repeat(
    name: str,
    seconds: float,
    job: Callable[[], Awaitable[object]],
    retry_seconds: float = RETRY_SECONDS,
) -> None:
    """Do a job every so many seconds."""
    while True:
        await trio.sleep(seconds)
        await _attempt(name, job, retry_seconds)


async def _attempt(name: str, job: Callable[[], Awaitable[object]], retry_seconds: float) -> None:
    """Do a job. Log its failure, and wait: neither another job nor the mount may end with it."""
    try:
        await job()
    except StoreFull as exc:
        log.warning("%s failed, next attempt in %.0f s: %s", name, retry_seconds, exc)
    except (ModelfsError, OSError) as exc:
        log.error("%s failed, next attempt in %.0f s: %s", name, retry_seconds, exc)
    except Exception:
        log.exception("%s failed, next attempt in %.0f s: bug", name, retry_seconds)
    else:
        return
    await trio.sleep(retry_seconds)
