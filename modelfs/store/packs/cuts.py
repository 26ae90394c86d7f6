"""Cuts: the end of a pack's file is cut off, after gc has copied the chunks that were there.

Theory of operation. The index first gets the new end of the pack, and a commit makes it durable.
Only then is the file cut. A crash in between leaves a file that is longer than the committed pack;
the next open of the store cuts it (see `recovery`). Nothing is appended to such a pack any more.

A read that was planned before has the file's `Descriptor`, and may still need the bytes. So the
descriptor is dropped from the cache first, and the file is cut when no read keeps it. If one does
for long, the cut waits for the next commit. A reader in another process has descriptors of its own;
it finds the file too short, and reads by the last commit.

Example. Pack 3 ends at 20 MiB, and gc has copied all chunks from 12 MiB on to pack 9. The commit of
these moves has 12 MiB as the end of pack 3. A thread reads a chunk at 14 MiB, by the old record: it
ends 2 ms later, and then 8 MiB are free.
"""

import contextlib
import os
import time
import weakref
from typing import Final

from modelfs.store.disk.descriptors import Descriptors
from modelfs.store.disk.directory import Directory

# How long a commit waits for reads of bytes that are to be cut off. They take milliseconds.
WAIT_SECONDS: Final = 0.5
POLL_SECONDS: Final = 0.002

Cut = tuple[str, int]  # the name of a pack's file, and its new length


class DeferredCuts:
    """The files of packs that become shorter with the next commit."""

    def __init__(self, folder: Directory, files: Descriptors) -> None:
        self._folder = folder
        self._files = files
        self._cuts: list[Cut] = []

    def cut_after_commit(self, name: str, length: int) -> None:
        """Let the next commit cut a file."""
        self._cuts.append((name, length))

    def drain(self) -> list[Cut]:
        """Return the listed cuts and empty the list, as `DeferredDeletes.drain`."""
        cuts, self._cuts = self._cuts, []
        return cuts

    def restore(self, cuts: list[Cut]) -> None:
        """Put drained cuts back, because their commit failed."""
        self._cuts.extend(cuts)

    def run(self, cuts: list[Cut]) -> None:
        """Cut files, once no read keeps them. Any thread.

        Raises:
            OSError: a file cannot be cut.
        """
        for cut in cuts:
            if self._is_read(cut[0]):
                self._cuts.append(cut)
                continue
            with contextlib.suppress(FileNotFoundError):  # deleted since: no chunk was left
                self._cut(*cut)

    def _is_read(self, name: str) -> bool:
        """Whether a read still keeps the descriptor of a file, after some time."""
        dropped = self._files.forget(name)
        descriptor = None if dropped is None else weakref.ref(dropped)
        del dropped
        until = time.monotonic() + WAIT_SECONDS
        while descriptor is not None and descriptor() is not None:
            if time.monotonic() > until:
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _cut(self, name: str, length: int) -> None:
        with self._folder.opened(name, os.O_RDWR) as fd:
            if os.fstat(fd).st_size > length:
                os.ftruncate(fd, length)
