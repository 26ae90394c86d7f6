"""An event that happens again and again."""

import trio


class Changed:
    """Wakes every waiting task at each change; the task then checks its condition again.

    A task must check its condition between two waits before it sleeps, or it misses a change::

        while not condition():
            await changed.wait()

    A condition that may change while the task does something else needs `next`::

        while not condition():
            change = changed.next()
            await something_else()
            await change.wait()
    """

    def __init__(self) -> None:
        self._event = trio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()

    def next(self) -> trio.Event:
        """Return the event of the next change, so that no change from now on is missed."""
        return self._event
