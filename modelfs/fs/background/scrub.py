"""Scrubbing beside the requests: at a given rate in the background, or for a command that waits.

There is one scrub at a time; a second command that asks for one follows it. A scrub that was begun
in the background goes on after a remount; any other waits for the next command.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from modelfs.errors import ModelfsError
from modelfs.fs.background.context import Context
from modelfs.fs.changed import Changed
from modelfs.jobs.scrub.job import log_damage, scrub_next
from modelfs.jobs.scrub.report import scrub_report
from modelfs.jobs.scrub.scrubber import Scrubber

log = logging.getLogger(__name__)

Progress = Callable[[int, int], Awaitable[None]]


class BackgroundScrub:
    """Runs the scrub."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._scrubber = Scrubber(context.store)
        self._running = False
        self._failure: Exception | None = None
        self._changed = Changed()

    def start(self) -> None:
        """Go on with what an earlier run of the daemon had in the background."""
        self._running = self._scrubber.status().rate > 0

    @property
    def running(self) -> bool:
        return self._running

    def begin(self, *, restart: bool = False, rate: int = 0) -> None:
        """Begin a scrub, or go on with one; the arguments are those of `Scrubber.begin`."""
        self._scrubber.begin(restart=restart, rate=rate)
        self._failure = None
        self._running = True
        self._changed.notify()

    def pause(self) -> None:
        """Stop; what is being read now is still recorded."""
        self._scrubber.pause()
        self._running = False
        self._changed.notify()

    async def follow(self, progress: Progress) -> None:
        """Return when the scrub that runs has ended or was stopped.

        Raises:
            ModelfsError, OSError: it cannot go on.
        """
        while self._running:
            changed = self._changed.next()  # it may change, and even end, during `progress`
            status = self._scrubber.status()
            await progress(status.done, status.total)
            await changed.wait()
        if self._failure is not None:
            raise self._failure

    async def report(self) -> dict[str, Any]:
        """Return how far the scrub is, and what was found and is damaged still."""
        report = partial(scrub_report, self._context.store, running=self._running)
        return await self._context.driver.call(report)

    async def run(self) -> None:
        """Scrub whenever there is a scrub to run, until cancelled."""
        while True:
            while not self._running:
                await self._changed.wait()
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
        checked = await self._context.driver.run(scrub_next(self._scrubber))
        if checked is None:
            self._running = False
            log.info("scrubbed %d bytes", self._scrubber.status().bytes)
        else:
            await self._context.driver.call(partial(log_damage, self._context.store, checked))
        self._changed.notify()
        if checked is not None:
            await self._rest(checked.bytes, time.monotonic() - began)

    async def _rest(self, size: int, seconds: float) -> None:
        rate = self._scrubber.status().rate
        if rate:
            # A command that stops it, or wants it to go faster, does not wait for this.
            with trio.move_on_after(max(0, size / rate - seconds)):
                await self._changed.wait()
