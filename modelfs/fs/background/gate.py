"""The gate, which each request passes before it makes a change.

A change may wait for a commit for 5 s, and all of them together may take 64 MiB. If the commits
cannot keep up, a request waits here, and if they fail it gets their error: an error that only fsync
returned would leave all other programs without a word. It waits, too, while too many staging files
have bytes that no flush has made durable, because each keeps a descriptor.

Example. The disk has been slow, and the oldest change has waited for 6 s. A program creates a file:
the request waits for the commit under way, and then makes its change. If that commit fails with
EIO, so does the request, and for a second all others that make changes.
"""

import logging
import time
from typing import Final

import trio

from modelfs.errors import LostBytes, StoreFull
from modelfs.fs.background.durability import Durability
from modelfs.store.store import Store

log = logging.getLogger(__name__)

# A request that makes a change waits if the oldest change is older than this. The promise to users
# for names and metadata is 5 seconds.
AGE_MAX: Final = 5.0
# The most memory of changes that wait for a commit.
BYTES_MAX: Final = 64 << 20
# After a commit that failed, requests get its error for so long before one tries again.
FAILED_SECONDS: Final = 1.0


class Gate:
    """Lets changes pass while commits and flushes keep up with them."""

    def __init__(self, store: Store, durability: Durability) -> None:
        self._index = store.index
        self._staging = store.staging
        self._durability = durability
        self._relieving = trio.Lock()

    async def before_change(self, *, frees: bool = False) -> None:
        """Wait while too many changes wait for a commit or a flush, or one waits for too long.

        Args:
            frees: the change frees room, so it is made although there is no room for a commit.

        Raises:
            StoreFull, OSError: the changes cannot be committed.
        """
        index = self._index
        is_old = index.uncommitted_seconds > AGE_MAX
        while is_old or index.uncommitted_bytes > BYTES_MAX:
            try:
                await self._commit_or_fail()
            except StoreFull:
                if frees and index.uncommitted_bytes <= BYTES_MAX:
                    return
                raise
            # Once: background jobs make changes all the time, which are older than 5 s after a
            # slow commit.
            is_old = False
        if self._staging.crowded():
            await self._flush_crowded()

    async def _commit_or_fail(self) -> None:
        """Commit; if the last commit failed just now, raise its error again."""
        failure = self._durability.failure
        if failure is not None and time.monotonic() < failure.at + FAILED_SECONDS:
            raise type(failure.error)(*failure.error.args)
        await self._durability.commit()

    async def _flush_crowded(self) -> None:
        """Flush the files whose staging files keep too many descriptors."""
        async with self._relieving:
            try:
                await self._durability.flush_some(self._staging.crowded())
            except (LostBytes, OSError) as exc:  # of other files, whose fsync returns it, too
                log.error("a file could not be flushed: %s", exc)
