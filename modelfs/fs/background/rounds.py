"""Rounds, each of which makes room once: see `shortage` for the requests that wait for it.

A round removes deleted files, ingests all staged bytes, also of files that are being written, and
commits. If some are staged still, and there is too little room, it flushes all files and ingests
once more. If that was not enough it collects garbage. If there still is too little room, it judges
the files of the last loan, and opens another; otherwise all loans are forgotten. Each step may
fail, and the next one is done nevertheless. Nothing in a round waits for an answer from the mount,
nor for a reader that has the packs pinned, so neither can hold it up.

Example. 40 MiB are staged, 30 MiB of them copies of stored bytes. The round ingests all and commits
them, which deletes the staging files. 10 MiB more are in packs and 40 MiB fewer in staging files:
that is room enough, so no garbage is collected.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from modelfs.errors import ModelfsError
from modelfs.fs.background.context import Context
from modelfs.fs.background.gc import BackgroundGc
from modelfs.fs.background.ingest import BackgroundIngest
from modelfs.fs.background.loans import Loans
from modelfs.fs.background.optimize import BackgroundOptimize

log = logging.getLogger(__name__)

# A round that made so much room for writers need not make more.
ROOM_MIN: Final = 16 << 20
# Less room than this counts as none.
NEGLIGIBLE: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class RoundResult:
    """The result of a round."""

    made_room: bool  # a request may try again
    grew: bool  # ingest has more room, less the bytes that are still staged, than before


class Rounds:
    """Makes room, a round at a time."""

    def __init__(
        self,
        context: Context,
        ingest: BackgroundIngest,
        gc: BackgroundGc,
        optimize: BackgroundOptimize,
        loans: Loans,
    ) -> None:
        self._context = context
        self._store = context.store
        self._ingest = ingest
        self._gc = gc
        self._optimize = optimize
        self._loans = loans

    async def make_room(self) -> RoundResult:
        """Make room once."""
        self._optimize.rest()
        before = await self._room_for_ingest()
        self._store.staging.wholes.copies.shrink(0)
        await self._context.driver.call(self._store.staging.wholes.empty_trash)
        await self._attempt("removal of deleted files", self._gc.remove_orphans)
        await self._ingest_all()
        if self._store.staging.bytes and not self._has_room():
            # A flush opens and closes the files, and XFS then frees the blocks behind their ends.
            await self._attempt("flush", self._context.durability.flush_all)
            await self._ingest_all()
        after = await self._room_for_ingest()
        if not self._has_room():
            collect = partial(self._gc.collect_for_room, self._has_room)
            await self._attempt("garbage collection", collect)
            after = await self._room_for_ingest()
        grew = after > before + NEGLIGIBLE
        if self._has_room():
            self._loans.forget()
            return RoundResult(made_room=True, grew=grew)
        await self._loans.close()
        return RoundResult(self._loans.lend() or grew, grew)

    async def _ingest_all(self) -> None:
        await self._attempt("ingest", self._ingest.ingest_all)
        await self._attempt("commit", self._context.durability.commit)  # deletes staging files

    def _has_room(self) -> bool:
        return self._store.space.writable_bytes() >= ROOM_MIN

    async def _room_for_ingest(self) -> int:
        """Measure the room that ingest may use, less the bytes that are still staged."""
        await self._context.driver.call(self._store.space.measure)
        return self._store.space.working_bytes - self._store.staging.bytes

    async def _attempt(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Do a step of a round. It may fail: other steps may make the room that it needs."""
        try:
            await work()
        except (ModelfsError, OSError) as exc:
            log.debug("%s for a request that waits for room: %s", name, exc)
        except Exception:
            log.exception("%s for a request that waits for room: bug", name)
