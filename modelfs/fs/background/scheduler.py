"""The scheduler of what happens behind the requests: writes move on to the disk and into chunks.

Requests change the store's memory. Behind them

- `durability` flushes and commits, every `COMMIT_SECONDS` or because a program waits for an fsync;
- `ingest` takes staged content into chunks;
- `gc` removes what was deleted, and gives its room back;
- `optimize` gives what is stored its smallest form, and then a good order;
- `scrub` reads what is stored, to find what the disk has lost;
- `pack_lock` lets one of them append to packs at a time.

All of them run at the same time, since what changes the store runs on the event loop between two
awaits, and what is slow runs on threads and changes nothing.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from modelfs.errors import ModelfsError, StoreFull
from modelfs.fs.background.context import Context
from modelfs.fs.background.drive import Driver
from modelfs.fs.background.durability import Durability
from modelfs.fs.background.gc import BackgroundGc
from modelfs.fs.background.ingest import BackgroundIngest
from modelfs.fs.background.optimize import BackgroundOptimize
from modelfs.fs.background.pack_lock import PackLock
from modelfs.fs.background.scrub import BackgroundScrub
from modelfs.fs.handles import Handles
from modelfs.store.store import Store

log = logging.getLogger(__name__)

COMMIT_SECONDS: Final = 5.0
TICK_SECONDS: Final = 0.25
COLLECT_SECONDS: Final = 60.0
SHORT_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 10.0  # after work that failed


class Scheduler:
    """All that happens behind the requests."""

    def __init__(self, store: Store, handles: Handles, workers: trio.CapacityLimiter) -> None:
        self._store = store
        self.durability = Durability(store, handles, workers)
        self.pack_lock = PackLock()
        driver = Driver(self.durability, workers)
        context = Context(store, handles, self.durability, driver, self.pack_lock)
        self.ingest = BackgroundIngest(context)
        self.gc = BackgroundGc(context, self.ingest)
        self.optimize = BackgroundOptimize(context)
        self.scrub = BackgroundScrub(context)

    def start(self) -> None:
        """Queue what an earlier run of the daemon left to do."""
        self.ingest.start()
        self.gc.start()
        self.scrub.start()

    async def mark_in_use(self) -> None:
        """Note, durably, that not all may be durable until `finish` has said so."""
        self._store.set_in_use(in_use=True)
        try:
            await self.durability.commit()
        except (ModelfsError, OSError) as exc:
            log.warning("that the store is in use is not noted yet: %s", exc)

    async def run(self) -> None:
        """Do everything when it is due, until cancelled."""
        async with trio.open_nursery() as nursery:
            for seconds, work in (
                (COMMIT_SECONDS, self.durability.commit),
                (TICK_SECONDS, self.durability.flush_old),
                (TICK_SECONDS, self.ingest.ingest_due),
                (TICK_SECONDS, self.gc.remove_orphans),
                (COLLECT_SECONDS, self.gc.collect_much),
                (SHORT_SECONDS, self.gc.collect_when_short),
            ):
                nursery.start_soon(_regularly, seconds, work)
            nursery.start_soon(self.scrub.run)
            nursery.start_soon(self.optimize.run)

    async def finish(self) -> None:
        """Make everything durable, at the end."""
        try:
            await self.durability.flush_all()
            self._store.set_in_use(in_use=False)
        finally:
            await self.durability.commit()


async def _regularly(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    while True:
        await trio.sleep(seconds)
        try:
            await work()
        except StoreFull as exc:
            log.warning("%s: %s", work.__name__, exc)
            await trio.sleep(RETRY_SECONDS)
        except (ModelfsError, OSError) as exc:
            log.error("%s: %s", work.__name__, exc)
            await trio.sleep(RETRY_SECONDS)
        except Exception:
            # One bad file must not end the work for all others, nor the mount.
            log.exception("%s: bug", work.__name__)
            await trio.sleep(RETRY_SECONDS)
