"""Shortage: a request that finds no room waits while ingest and gc make some.

Theory of operation. Staged bytes take room until they are in chunks, and garbage until it is
collected, so a full disk may have room in a moment. A task makes room in *rounds* (see `rounds`),
while a request waits. A waiting request tries again after each round, and every `LOOK_SECONDS`
meanwhile, since programs remove files. A round that made no room ends the wait of all that still
find none with ENOSPC, and so does a long wait.

A sync of mapped files, and the end of the daemon, are *urgent*: they wait for the writes of mapped
pages. Then a request waits for one round at most.

When nothing is staged and no garbage is left, a round lends a part of the reserve (see `loans`).

Example. A store of 300 MiB has reached its limit, and a program copies a stored model inside it.
The first write waits. A round finds nothing to ingest and no garbage, but 18 MiB of the reserve,
and opens a loan. After a probe of 1 MiB the copy waits again: the round ingests it, finds it
stored, and opens a loan of 4.7 MiB for the copy; so it goes on to its end. Then a program writes
noise: after 1 MiB the round finds new content, and the program gets ENOSPC.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from modelfs.errors import Interrupted, StoreFull
from modelfs.fs.background.loans import Loans, Position
from modelfs.fs.background.rounds import RoundResult, Rounds
from modelfs.fs.host.pending_signals import is_ending, process_of
from modelfs.store.disk.allocation import FULL
from modelfs.store.disk.space import Space

# The longest wait of one request. As long as room is made it seldom needs more than a second.
WAIT_SECONDS: Final = 60.0
# How many requests may wait. The others that the daemon answers at a time stay free for programs
# that read, and that remove files.
WAITING_MAX: Final = 48
# After a round that made no room, the next one begins so much later.
PAUSE_SECONDS: Final = 0.25
# How often a waiting request looks for room, and whether its program is being ended.
LOOK_SECONDS: Final = 0.25
NO_ROOM: Final = RoundResult(made_room=False, grew=False)

# Whether a wait may end; called with the result of a round at its end, and with None before that.
Condition = Callable[[RoundResult | None], bool]


class _Round:
    """A round, from the end of the one before it to its own end, for the requests that wait."""

    def __init__(self) -> None:
        self.asked = trio.Event()  # a request waits for it
        self.ended = trio.Event()
        self.result = NO_ROOM  # once it has ended
        self.has_granted = False  # room to some request, since its beginning

    def end(self, result: RoundResult) -> None:
        self.result = result
        self.ended.set()


class Shortage:
    """Grants room to requests, and has room made while they wait."""

    def __init__(self, space: Space, loans: Loans, rounds: Rounds) -> None:
        self._space = space
        self._loans = loans
        self._rounds = rounds
        self._round = _Round()  # the one under way, or else the next
        self._waiting = 0
        self._urgent = 0  # callers of `urgent`
        self._may_wait = False

    # -- requests

    async def reserve(self, size: int, pid: int = 0, at: Position | None = None) -> None:
        """Grant a request room for `size` bytes; waits while some can be made.

        `Space.arrive` follows in any case.

        Args:
            size: of the bytes that are about to be written.
            pid: of the program or a thread of it, 0 if it is not known. The wait ends when a signal
                ends the program.
            at: where in a file the bytes are; None: they are rows of the index.

        Raises:
            StoreFull: there is no room.
            Interrupted: a signal ends the program.
        """
        failure = self._refusal(size, at)
        if failure is not None and not await self._waited_for(
            pid, lambda _: self._refusal(size, at) is None
        ):
            raise failure

    async def write(
        self, size: int, at: Position, pid: int, write: Callable[[], Awaitable[int]]
    ) -> int:
        """Grant a request room for `size` bytes, and write them.

        If the disk refuses the write for lack of room, it is repeated once some was made.

        Args:
            size: of the bytes.
            at: where in a file they are.
            pid: as for `reserve`.
            write: writes them, and returns the number that was written.

        Raises:
            StoreFull, Interrupted: as for `reserve`.
            OSError: of the last write.
        """
        while True:
            await self.reserve(size, pid, at)
            try:
                return await write()
            except OSError as exc:
                if exc.errno not in FULL:
                    raise
                self._space.release(exc)
                failure = exc
            finally:
                self._space.arrive(size)
            # A quota may refuse a write although the disk has room: the room must have grown.
            if not await self._waited_for(pid, lambda result: result is not None and result.grew):
                raise failure

    async def _waited_for(self, pid: int, condition: Condition) -> bool:
        """Wait for rounds that make room; return whether the condition came true."""
        if self._waiting >= WAITING_MAX:
            return False
        self._waiting += 1
        pids = {pid, process_of(pid)} if pid else set()
        try:
            with trio.move_on_after(WAIT_SECONDS):
                while self._may_wait:
                    awaited = self._round
                    awaited.asked.set()
                    if await _came_true(condition, awaited, pids):
                        return True
                    result = awaited.result
                    # First, as a round that gained too little to go on may have gained enough.
                    if condition(result):
                        return True
                    if self._urgent or not result.made_room:
                        return False
                    if not (result.grew or self._round.has_granted):
                        return False  # the next round would make no more
        finally:
            self._waiting -= 1
        return condition(None)

    def _refusal(self, size: int, at: Position | None) -> StoreFull | None:
        """Grant room above the reserve, or of a loan; return the error if there is none."""
        try:
            self._space.reserve(size)
        except StoreFull as exc:
            if not self._loans.borrow(size, at):
                return exc
        self._round.has_granted = True
        return None

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
        self._end_round(NO_ROOM)

    # -- rounds

    async def run(self) -> None:
        """Make room while requests wait, until cancelled."""
        self._may_wait = True
        try:
            while True:
                await self._round.asked.wait()
                result = await self._rounds.make_room()
                self._end_round(result)
                if not result.made_room:
                    await trio.sleep(PAUSE_SECONDS)
        finally:
            self.stop_waiting()

    def _end_round(self, result: RoundResult) -> None:
        ended, self._round = self._round, _Round()
        ended.end(result)


async def _came_true(condition: Condition, awaited: _Round, pids: set[int]) -> bool:
    """Wait for the end of a round, or until a condition is true; return whether it is.

    Raises:
        Interrupted: a signal ends the program.
    """
    while not awaited.ended.is_set():
        if any(map(is_ending, pids)):
            raise Interrupted("a signal ends the program that waits for room")
        with trio.move_on_after(LOOK_SECONDS):
            await awaited.ended.wait()
            return False
        if condition(None):
            return True
    return False
