"""BackgroundScrub a mounted store: at a given rate in the background, or for somebody who waits.

There is one scrub at a time. Who asks for one that runs already follows it. It goes on after a
remount if it was begun in the background, and otherwise waits to be asked for again.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from modelfs.errors import ModelfsError
from modelfs.jobs.scrub.report import scrub_report, whom_it_hurts
from modelfs.jobs.scrub.scrubber import PackRange
from modelfs.store.store import Store

log = logging.getLogger(__name__)

Progress = Callable[[int, int], Awaitable[None]]


class BackgroundScrub:
    """Runs the scrub."""

    def __init__(self, store: Store, workers: trio.CapacityLimiter) -> None:
        self._store = store
        self._workers = workers
        self._wanted = trio.Event()
        self._moved = trio.Event()
        self._failure: Exception | None = None

    def start(self) -> None:
        """Go on with what an earlier run of the daemon had in the background."""
        if self._store.scrubber.status().rate:
            self._wanted.set()

    @property
    def running(self) -> bool:
        return self._wanted.is_set()

    def begin(self, *, anew: bool = False, rate: int = 0) -> None:
        """Begin a scrub, or go on with one; the arguments are those of `Scrubber.begin`."""
        self._store.scrubber.begin(anew=anew, rate=rate)
        self._failure = None
        self._wanted.set()
        self._tell()

    def pause(self) -> None:
        """Stop; what is being read now is still noted."""
        self._store.scrubber.pause()
        self._halt()
        self._tell()

    def _halt(self) -> None:
        if self.running:
            self._wanted = trio.Event()

    async def follow(self, progress: Progress) -> None:
        """Return when the scrub that runs has ended or was stopped.

        Raises:
            ModelfsError, OSError: it cannot go on.
        """
        while self.running:
            moved = self._moved  # it may move, and even end, while that is told
            status = self._store.scrubber.status()
            await progress(status.done, status.total)
            await moved.wait()
        if self._failure is not None:
            raise self._failure

    async def report(self) -> dict[str, Any]:
        """Return how far the scrub is, and what was found and is damaged still."""
        return await trio.to_thread.run_sync(
            partial(scrub_report, self._store, running=self.running), limiter=self._workers
        )

    async def run(self) -> None:
        """Scrub whenever it is asked for, until cancelled."""
        while True:
            await self._wanted.wait()
            try:
                await self._advance()
            except (ModelfsError, OSError) as exc:
                log.error("the scrub stopped: %s", exc)
                self._fail(exc)
            except Exception as exc:
                # The scrub ends here, not the mount.
                log.exception("the scrub stopped: bug")
                self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        self._failure = exc
        self.pause()

    async def _advance(self) -> None:
        began = time.monotonic()
        self._store.scrubber.forget_healed()
        stretch = self._store.scrubber.next_stretch()
        if stretch is None:
            self._halt()
            log.info("scrubbed %d bytes", self._store.scrubber.status().bytes)
        else:
            await self._check(stretch)
        self._tell()
        if stretch is not None:
            await self._rest(stretch.bytes, time.monotonic() - began)

    async def _check(self, stretch: PackRange) -> None:
        await trio.to_thread.run_sync(self._store.scrubber.check, stretch, limiter=self._workers)
        self._store.scrubber.take(stretch)
        await trio.to_thread.run_sync(self._report, stretch, limiter=self._workers)

    def _report(self, stretch: PackRange) -> None:
        for problem in stretch.problems:
            log.error("scrub: %s", problem)
        if stretch.damaged:
            for found in whom_it_hurts(self._store, stretch.damaged):
                files, tensors = found.files, found.tensors
                log.error("scrub: %s; files: %s; tensors: %s", found.message, files, tensors)

    async def _rest(self, size: int, seconds: float) -> None:
        rate = self._store.scrubber.status().rate
        if rate:
            # Asking for it to be stopped, or to go faster, does not wait for this.
            with trio.move_on_after(max(0, size / rate - seconds)):
                await self._moved.wait()

    def _tell(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
