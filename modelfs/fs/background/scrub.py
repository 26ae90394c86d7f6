"""Scrubbing beside the requests: at a given rate in the background, or for a command that waits.

There is one scrub at a time, and a second command follows it. A scrub in the background goes on
after a remount; any other goes on with the next `modelfs scrub`.

Example. A scrub in the background reads 64 MiB a second: after a segment of 16 MiB that took 50 ms
it rests for 200 ms. `modelfs scrub` follows it at that rate; `modelfs scrub --background --rate
1GiB` ends the rest and makes it faster.
"""

import logging
import time
from functools import partial
from typing import Any

import trio

from modelfs.errors import ModelfsError
from modelfs.fs.background.context import AsyncProgress, Context
from modelfs.fs.changed import Changed
from modelfs.jobs.scrub.job import log_damage, scrub_next
from modelfs.jobs.scrub.report import scrub_report
from modelfs.jobs.scrub.scrubber import Scrubber

log = logging.getLogger(__name__)


class BackgroundScrub:
    """Runs the scrub of a mounted store."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._scrubber = Scrubber(context.store)
        self._running = False
        self._failure: Exception | None = None
        self._changed = Changed()

    def start(self) -> None:
        """Continue a background scrub of an earlier run of the daemon."""
        self._running = self._scrubber.status().rate > 0

    @property
    def running(self) -> bool:
        return self._running

    def begin(self, *, restart: bool = False, rate: int = 0) -> None:
        """Begin or continue a scrub; the arguments are those of `Scrubber.begin`."""
        self._scrubber.begin(restart=restart, rate=rate)
        self._failure = None
        self._running = True
        self._changed.notify()

    def pause(self) -> None:
        """Stop; the range that is being read is still recorded."""
        self._scrubber.pause()
        self._running = False
        self._changed.notify()

    async def follow(self, progress: AsyncProgress) -> None:
        """Return when the running scrub has ended or was stopped.

        Args:
            progress: called with how many bytes of packs are done, and how many there are.

        Raises:
            ModelfsError, OSError: the scrub failed.
        """
        while self._running:
            changed = self._changed.next()  # the scrub may advance or end during `progress`
            status = self._scrubber.status()
            await progress(status.done, status.total)
            await changed.wait()
        if self._failure is not None:
            raise self._failure

    async def report(self) -> dict[str, Any]:
        """Return the status of the scrub, and the damage that is still there."""
        report = partial(scrub_report, self._context.store, running=self._running)
        return await self._context.driver.call(report)

    async def run(self) -> None:
        """Scrub whenever a scrub is to run, until cancelled."""
        while True:
            while not self._running:
                await self._changed.wait()
            try:
                await self._advance()
            except (ModelfsError, OSError) as exc:
                log.error("the scrub stopped: %s", exc)
                self._fail(exc)
            except Exception as exc:
                # A bug ends the scrub, not the mount.
                log.exception("the scrub stopped: bug")
                self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        self._failure = exc
        self.pause()

    async def _advance(self) -> None:
        """Check the next range of a pack, and rest if a rate is given."""
        began = time.monotonic()
        checked = await self._context.driver.run(scrub_next(self._scrubber))
        if checked is None:
            self._running = False
            self._changed.notify()
            log.info("scrubbed %d bytes", self._scrubber.status().bytes)
            return
        with trio.CancelScope(shield=True):  # the scrub goes on behind this range
            await self._context.driver.call(partial(log_damage, self._context.store, checked))
        self._changed.notify()
        if rate := self._scrubber.status().rate:
            rest = checked.bytes / rate - (time.monotonic() - began)
            # A command that stops the scrub, or changes its rate, ends the rest.
            with trio.move_on_after(max(0, rest)):
                await self._changed.wait()
