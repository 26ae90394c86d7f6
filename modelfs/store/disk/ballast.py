"""The ballast: room on the disk that a store holds, for a shortage that statvfs(2) does not show.

Theory of operation. A disk quota is invisible before it is used up: statvfs(2) shows the room of
the whole disk on btrfs, and for quotas of users on ext4 and XFS, too. Then nothing is left for the
commit of a deletion. And on a file system that writes each block to a new place, nothing is left
for LMDB's lock file, which is written through a mapping: the kernel ends the process by SIGBUS
(see `index.lock_file`).

So a store that is open for writing holds some MiB in a nameless file. When the disk refuses a
write, the file is closed, and its room is there at once: measured on btrfs with a used up quota,
0.1 ms. `Space` decides which work gets it. The room is held again when the disk has it to spare.
Often the lock file is the first to be refused, because other programs use the quota, too, or
between two writes. So the handler of SIGBUS closes the ballast as well (see `disk.bus_errors`).

The file has no name, so a killed process gives the room back, too, and du(1) does not count it. It
is not part of a store's limit. With it, a store passes the limit only by the part of the floor that
the index uses, since the ballast is no larger than the floor, which all other work leaves free.

There is none on file systems without O_TMPFILE or fallocate(2), and on tmpfs, where it would take
memory.

Example. A store has 100 MB left of a quota, on a disk with 1 TB, and holds 32 MiB. A program writes
100 MB: after 66 MB the disk refuses a write, and the ballast is released. The program gets ENOSPC.
Another removes a file: the commit has room, the file's pack goes, and 32 MiB are held again.
"""

import os
import threading
import time
import weakref
from pathlib import Path
from typing import Final

from modelfs.store.disk.allocation import FULL, NamelessFile, held_room
from modelfs.store.disk.bus_errors import arm, disarm, is_armed

# A ballast may have this part of the wanted size: commits may have used a little of its room.
LEAST_PART: Final = 3 / 4
# This part of a released ballast is left to the index.
INDEX_PART: Final = 1 / 4
# After so many seconds it is tried again without a request that waits. On a btrfs with a used up
# quota each attempt waits for a commit of the file system.
RETRY_SECONDS: Final = 10.0


class Ballast:
    """A nameless file that holds room in the folder of a store. Any thread.

    Attributes:
        lendable: bytes that ingest and gc may use once it is released.
    """

    def __init__(self, folder: Path) -> None:
        """Prepare a ballast, which holds nothing yet."""
        self._folder = folder
        self._holding = threading.Lock()
        self._is_possible = False  # at the last attempt, but for the room
        self._tried_at = 0.0  # monotonic seconds; when it was last tried to hold it
        self._held: list[_Held] = []  # one at most
        self.lendable = 0

    @property
    def bytes(self) -> int:
        """The room that it holds, which statvfs(2) shows as used."""
        return sum(held.file.size for held in self._held if held.is_open)

    @property
    def is_missing(self) -> bool:
        """Whether the file system has ballasts, and had no room for this one since a release."""
        return self._is_possible and not self.bytes

    @property
    def is_due(self) -> bool:
        """Whether it is missing, and an attempt to hold it may succeed by now."""
        return self.is_missing and time.monotonic() - self._tried_at > RETRY_SECONDS

    def hold(self, size: int) -> bool:
        """Hold so many bytes, or a little less, if the disk has them; return whether it does.

        May wait for the disk.
        """
        with self._holding:
            for wanted in (size, int(size * LEAST_PART)):
                if not self.bytes and self._has_held(wanted):
                    self.lendable = int(wanted * (1 - INDEX_PART))
            self._tried_at = time.monotonic()
            return self.bytes > 0

    def _has_held(self, size: int) -> bool:
        try:
            file = held_room(os.fspath(self._folder), size)
        except OSError as exc:
            self._is_possible = exc.errno in FULL
            return False
        self._is_possible = file is not None
        if file is not None:
            self._held[:] = [_Held(file)]
        return self._is_possible

    def release(self) -> bool:
        """Give the room back to the disk, at once. Return whether there was any."""
        # Without the lock: another thread may wait for the disk with it.
        try:
            return self._held.pop().close()
        except IndexError:
            return False

    def lend(self, size: int) -> None:
        """Note that ingest or gc uses bytes of its room, if it is missing."""
        if self.is_missing:
            self.lendable -= size

    def close(self) -> None:
        """Release it for good: it is not missing from now on."""
        self._is_possible = False
        self.release()


class _Held:
    """A file that holds room, until `close` or the handler of SIGBUS closes it."""

    def __init__(self, file: NamelessFile) -> None:
        self.file = file
        self._ticket = arm(file.fd)
        if self._ticket:
            file.close()  # the handler's duplicate is left
        weakref.finalize(self, disarm, self._ticket)

    @property
    def is_open(self) -> bool:
        return not self._ticket or is_armed(self._ticket)

    def close(self) -> bool:
        """Close it; return whether it was open."""
        self.file.close()
        return not self._ticket or disarm(self._ticket)
