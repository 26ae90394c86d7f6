"""Cuts: the end of a pack's file is cut off, after gc has copied the chunks that were there.

Theory of operation. The index first gets the new end of the pack, and a commit makes it durable.
Only then is the file cut. A crash in between leaves a file that is longer than the committed pack;
the next open of the store cuts it (see `recovery`).

Nothing is appended to such a pack any more, in later sessions either: CUT_PACK remembers it. A
reader that has verified a place reads it without a checksum, so a place never gets other bytes.

A read that was planned before has one of the file's `Descriptor`s, and may still need the bytes.
That may be another one than the one in the cache, where files leave when others are opened. So the
file is cut when no read keeps any that was open before. If one does for long, the cut waits for the
next commit. A reader in another process has descriptors of its own; it finds the file too short,
and reads by the last commit.

Example. Pack 3 ends at 20 MiB, and gc has copied all chunks from 12 MiB on to pack 9. The commit of
these moves has 12 MiB as the end of pack 3. A thread reads a chunk at 14 MiB, by the old record: it
ends 2 ms later, and then 8 MiB are free.
"""

import contextlib
import os
import time
from typing import Final

from modelfs.store.disk.deferred import Deferred

# How long a commit waits for reads of bytes that are to be cut off. They take milliseconds.
WAIT_SECONDS: Final = 0.5
POLL_SECONDS: Final = 0.002

Cut = tuple[str, int]  # the name of a pack's file, and its new length


class DeferredCuts(Deferred[Cut]):
    """The files of packs that become shorter with the next commit."""

    def _attempt(self, work: Cut) -> bool:
        if self._is_read(work[0]):
            return False
        with contextlib.suppress(FileNotFoundError):  # deleted since: no chunk was left
            self._cut(*work)
        return True

    def _is_read(self, name: str) -> bool:
        """Whether a read still keeps a descriptor of a file, after some time."""
        self._files.forget(name)
        kept = self._files.kept(name)
        until = time.monotonic() + WAIT_SECONDS
        while any(descriptor() is not None for descriptor in kept):
            if time.monotonic() > until:
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _cut(self, name: str, length: int) -> None:
        with self._folder.opened(name, os.O_RDWR) as fd:
            if os.fstat(fd).st_size > length:
                os.ftruncate(fd, length)
