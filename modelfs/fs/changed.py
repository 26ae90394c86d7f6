"""A condition that many may wait for, again and again."""

import trio


class Changed:
    """Wakes every waiter at each change; a waiter checks its condition again.

    Between two waits a task must not sleep before it has checked, or it misses a change::

        while not condition():
            await changed.wait()
    """

    def __init__(self) -> None:
        self._event = trio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()

    def next(self) -> trio.Event:
        """Return the event of the next change: what changes from now on is not missed."""
        return self._event
