"""Shortage: a request that finds no room waits while ingest and gc make some.

Theory of operation. Staged bytes take room until they are in chunks, and garbage until it is
collected, so a full disk may have room in a moment. A task makes room in *rounds*, while a request
waits: it ingests all staged bytes, also of files that are being written, commits, and collects
garbage if that was not enough. A waiting request tries again after each round, and every
`LOOK_SECONDS` meanwhile, since programs remove files. A round that made no room ends the wait of
all that still find none with ENOSPC, and so does a long wait. Nothing in a round waits for an
answer from the mount, nor for a reader that has the packs pinned, so neither can hold it up.

A sync of mapped files, and the end of the daemon, are *urgent*: they wait for the writes of mapped
pages. Then a request waits for one round at most.

When nothing is staged and no garbage is left, only the reserve is left. It is lent to writers a
*loan* at a time, because their bytes may be copies of stored ones, which take no room in the end. A
loan is a part of the room that is left, so some is always left for the next. If more than half of
it was new content, it ends the wait, and the next loan is smaller.

Example. A store of 300 MiB has reached its limit, and a program copies a stored model inside it.
The first write waits. A round finds nothing to ingest and no garbage, and opens a loan of 6 MiB.
After as many bytes the copy waits again: the round ingests them, finds them all stored, and opens
a loan of 6 MiB more; so the copy ends. Then a program writes noise: after 6 MiB the round finds
that the reserve is 6 MiB smaller, and the program gets ENOSPC.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from modelfs.errors import Interrupted, ModelfsError, StoreFull
from modelfs.fs.background.context import Context
from modelfs.fs.background.gc import BackgroundGc
from modelfs.fs.background.ingest import BackgroundIngest
from modelfs.fs.background.optimize import BackgroundOptimize
from modelfs.fs.changed import Changed
from modelfs.fs.host.pending_signals import is_ending

log = logging.getLogger(__name__)

# The longest wait of one request. As long as room is made it seldom needs more than a second.
WAIT_SECONDS: Final = 60.0
# How many requests may wait. The others that the daemon answers at a time stay free for programs
# that read, and that remove files.
WAITING_MAX: Final = 48
# After a round that made no room, the next one begins so much later.
PAUSE_SECONDS: Final = 0.25
# How often a waiting request looks for room, and whether its program is being ended.
LOOK_SECONDS: Final = 0.25
# More room than this is worth another try.
GAIN_MIN: Final = 64 << 10
# A round that made so much room for writers need not make more.
ROOM_MIN: Final = 16 << 20
LOAN_MIN: Final = 4 << 20
LOAN_MAX: Final = 64 << 20
# A loan has this part of the room that is left, and is not worth it below `LOAN_LEAST`.
LOAN_PART: Final = 1 / 3
LOAN_LEAST: Final = 1 << 20


@dataclass(slots=True)
class _Loan:
    """Bytes of the reserve that writers may stage."""

    working: int  # bytes of the reserve that were left at its beginning
    staged_max: int
    lent: int = 0


class Shortage:
    """Grants room to requests, and makes room while they wait."""

    def __init__(
        self,
        context: Context,
        ingest: BackgroundIngest,
        gc: BackgroundGc,
        optimize: BackgroundOptimize,
    ) -> None:
        self._context = context
        self._store = context.store
        self._ingest = ingest
        self._gc = gc
        self._optimize = optimize
        self._waiting = 0
        self._asked = Changed()
        self._round_ended = Changed()
        self._is_asked = False  # a request waits for the next round
        self._made_room = False  # the last round did
        self._grew = False  # room for writers or ingest, in the last round
        self._has_granted = False  # room to some request, since the last round
        self._may_wait = False
        self._urgent = 0  # callers of `urgent`
        self._failure = StoreFull()  # of the last request that found no room
        self._loan: _Loan | None = None
        self._loan_max = LOAN_MAX

    # -- requests

    async def reserve(self, size: int, pid: int = 0) -> None:
        """Grant a request room for `size` bytes; waits while some can be made.

        `Space.arrive` follows in any case.

        Args:
            size: of the bytes that are about to be written.
            pid: of the program, 0 if it is not known. The wait ends when a signal ends the program.

        Raises:
            StoreFull: there is no room.
            Interrupted: a signal ends the program.
        """
        if not self._is_granted(size):
            failure = self._failure
            if not await self._waited_for(pid, lambda: self._is_granted(size)):
                raise failure

    async def wait_after(self, failure: OSError, pid: int = 0) -> None:
        """Wait until some room was made, after the disk refused a write.

        Raises:
            OSError: `failure`, if no room can be made.
            Interrupted: a signal ends the program.
        """
        # A quota may refuse a write although the disk has room: the room must have grown.
        if not await self._waited_for(pid):
            raise failure

    async def _waited_for(self, pid: int, condition: Callable[[], bool] | None = None) -> bool:
        """Wait for rounds that make room; return whether the condition came true.

        Args:
            pid: as for `reserve`.
            condition: is looked at all the time; None: whether a round made room.
        """
        if self._waiting >= WAITING_MAX:
            return False
        self._waiting += 1
        try:
            with trio.move_on_after(WAIT_SECONDS):
                while self._may_wait:
                    ended = self._round_ended.next()
                    self._is_asked = True
                    self._asked.notify()
                    if await _wait(ended, pid, condition or bool):
                        return True
                    # First, as a round that gained too little to go on may have gained enough.
                    if self._grew if condition is None else condition():
                        return True
                    if self._urgent or not self._made_room:
                        return False
                    if not (self._grew or self._has_granted):
                        return False  # the next round would make no more
        finally:
            self._waiting -= 1
        return condition is not None and condition()

    def _is_granted(self, size: int) -> bool:
        """Grant room above the reserve, or of a loan; return whether there is any."""
        try:
            self._store.space.reserve(size)
        except StoreFull as exc:
            self._failure = exc
            if self._loan is None:
                return False
            try:
                self._store.space.borrow(size, self._loan.staged_max)
            except StoreFull:
                return False
            self._loan.lent += size
        self._has_granted = True
        return True

    @contextmanager
    def urgent(self) -> Iterator[None]:
        """Let no request wait for more than one round inside the block."""
        self._urgent += 1
        try:
            yield
        finally:
            self._urgent -= 1

    def stop_waiting(self) -> None:
        """Let no request wait from now on: the daemon ends."""
        self._may_wait = False
        self._round_ended.notify()

    # -- making room

    async def run(self) -> None:
        """Make room while requests wait, until cancelled."""
        self._may_wait = True
        try:
            while True:
                while not self._is_asked:
                    await self._asked.wait()
                self._is_asked = False
                self._made_room = await self._round()
                self._has_granted = False
                self._round_ended.notify()
                if not self._made_room:
                    await trio.sleep(PAUSE_SECONDS)
        finally:
            self.stop_waiting()

    async def _round(self) -> bool:
        """Make room once; return whether a request may try again."""
        self._optimize.rest()
        before = await self._working_bytes() - self._store.inventory.staged_bytes()
        await self._attempt("removal of deleted files", self._gc.remove_orphans)
        await self._ingest_all()
        if self._store.inventory.staged_bytes() and not self._has_room():
            # A flush opens and closes the files, and XFS then frees the blocks behind their ends.
            await self._attempt("flush", self._context.durability.flush_all)
            await self._ingest_all()
        after = await self._working_bytes() - self._store.inventory.staged_bytes()
        if not self._has_room():
            collect = partial(self._gc.collect_for_room, self._has_room)
            await self._attempt("garbage collection", collect)
            after = await self._working_bytes() - self._store.inventory.staged_bytes()
        self._grew = after > before + GAIN_MIN
        if self._has_room():
            self._loan, self._loan_max = None, LOAN_MAX
            return True
        return self._was_worth_lending() and (self._lend() or self._grew)

    async def _ingest_all(self) -> None:
        await self._attempt("ingest", self._ingest.ingest_all)
        await self._attempt("commit", self._context.durability.commit)  # deletes staging files

    def _has_room(self) -> bool:
        return self._store.space.writable_bytes() >= ROOM_MIN

    async def _working_bytes(self) -> int:
        await self._context.driver.call(self._store.space.measure)
        return self._store.space.working_bytes

    async def _attempt(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Do a step of a round. It may fail: other steps may make the room that it needs."""
        try:
            await work()
        except (ModelfsError, OSError) as exc:
            log.debug("%s for a request that waits for room: %s", name, exc)
        except Exception:
            log.exception("%s for a request that waits for room: bug", name)

    def _was_worth_lending(self) -> bool:
        """Return whether the last loan, if any, was for copies of stored content; end it."""
        loan, self._loan = self._loan, None
        if loan is None:
            return True
        lost = loan.working - self._store.space.working_bytes
        if lost > max(GAIN_MIN, loan.lent // 2):
            self._loan_max = max(LOAN_MIN, self._loan_max // 8)
            return False
        self._loan_max = min(LOAN_MAX, 2 * self._loan_max)
        return True

    def _lend(self) -> bool:
        """Open a loan, if enough of the reserve is left."""
        space, staged = self._store.space, self._store.inventory.staged_bytes()
        size = min(self._loan_max, int(LOAN_PART * (space.loan_bytes - staged)))
        if size < LOAN_LEAST:
            return False
        self._loan = _Loan(space.working_bytes, staged + size)
        return True


async def _wait(ended: trio.Event, pid: int, condition: Callable[[], bool]) -> bool:
    """Wait for an event, or until a condition is true; return whether it is.

    Raises:
        Interrupted: a signal ends the program.
    """
    while not ended.is_set():
        if pid and is_ending(pid):
            raise Interrupted("a signal ends the program that waits for room")
        with trio.move_on_after(LOOK_SECONDS):
            await ended.wait()
            return False
        if condition():
            return True
    return False
