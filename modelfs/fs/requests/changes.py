"""The conditions under which a handler may change the store.

Commits have to keep up with changes (see `background.gate`), and rows that a change adds to the
index need room. A handler that adds rows makes its change in a block of `Changes`, which waits for
both; the block of a change of names ends with a commit if the mount's options ask for one. A change
that frees room goes without room, or a full disk could not be emptied. One that adds no rows, such
as a write, waits for commits alone: see `before_change`. The room for its bytes is granted by
`background.shortage`.

Example. `mkdir d` on a mount with the option dirsync: the block passes the gate and reserves 4 KiB.
The handler changes the namespace. The room is given back, because the index counts its own changes
in memory, and a commit makes the name durable before the reply.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from modelfs.fs.background.scheduler import Scheduler
from modelfs.store.disk.space import Space

# Bytes reserved in the index for a name or an attribute.
NAME_ROOM: Final = 4096


class SyncOptions(NamedTuple):
    """The kinds of changes that are durable before a reply, by mount(8)'s options."""

    names: bool = False  # `sync` or `dirsync`
    content: bool = False  # `sync`


NOT_SYNC: Final = SyncOptions()


class Changes:
    """Waits until a change may be made, and makes changes of names durable if need be."""

    def __init__(self, space: Space, background: Scheduler, *, commits_names: bool) -> None:
        """Make the conditions; with `commits_names`, names are durable at the end of a block."""
        self._space = space
        self._gate = background.gate
        self._shortage = background.shortage
        self._durability = background.durability
        self._commits_names = commits_names

    async def before_change(self, *, frees: bool = False) -> None:
        """Wait until a handler may make a change that adds no rows to the index.

        Args:
            frees: the change frees room.

        Raises:
            StoreFull, OSError: commits fail, and too many changes wait for one.
        """
        await self._gate.before_change(frees=frees)

    @contextlib.asynccontextmanager
    async def of_rows(self, room: int, pid: int) -> AsyncIterator[None]:
        """Let the block change rows of the index.

        Args:
            room: bytes that the change may add to the index.
            pid: of the program, as for `Shortage.reserve`.

        Raises:
            StoreFull: there is no room for the rows, or for a commit.
            OSError: commits fail.
            Interrupted: a signal ends the program while it waits.
        """
        await self._wait_for_both(room, pid)
        try:
            yield
        finally:
            self._space.arrive(room, 0)  # the index counts its changes itself

    @contextlib.asynccontextmanager
    async def of_names(self, pid: int, room: int = NAME_ROOM) -> AsyncIterator[None]:
        """Let the block change names. Arguments and exceptions are those of `of_rows`."""
        # Not by way of `of_rows`: a second block takes 3 us more, of each create.
        await self._wait_for_both(room, pid)
        try:
            yield
        finally:
            self._space.arrive(room, 0)
        await self._commit_names()

    @contextlib.asynccontextmanager
    async def removing_names(self) -> AsyncIterator[None]:
        """Let the block remove names, on a full disk, too.

        Raises:
            StoreFull, OSError: commits fail, and too many changes wait for one.
        """
        await self._gate.before_change(frees=True)
        yield
        await self._commit_names()

    async def _wait_for_both(self, room: int, pid: int) -> None:
        """Wait until commits keep up with changes, and there is room."""
        await self._gate.before_change()
        if room:
            await self._shortage.reserve(room, pid)

    async def _commit_names(self) -> None:
        # The kernel makes the content of files synchronous by itself, and sends nothing for names.
        if self._commits_names:
            await self._durability.commit()
