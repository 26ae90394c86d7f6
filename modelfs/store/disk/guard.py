"""The guard: the reserve of a disk, held while programs write without asking for room.

Theory of operation. A program whose file the kernel writes itself (see `fs.requests.passthrough`)
asks for no room, and only the disk stops it. So while there is such a *writer*, the reserve is held
in a nameless file, but for the ballast, which is held in any case. The disk then refuses the writer
when only the reserve is left. Ingest works in the reserve, so it is given back when no writer is
left, and until then ingest and gc have the room above it.

The room of the last writer stays held for `IDLE_SECONDS`, since `cp -r` opens one file after the
other. `Space` releases it before that for work that needs it.

A file that is mapped for writing after its last close has no writer here. Only its holes can still
take room.

Example. A disk of 100 GiB has a reserve of 256 MiB, of which 32 MiB are the ballast. `cp` of
120 GB begins: 224 MiB are held. After 99.7 GiB the disk refuses a write, and `cp` gets ENOSPC and
ends. The guard is released, and ingest has 224 MiB to begin with.
"""

import math
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from modelfs.store.disk.allocation import NamelessFile, held_room

# Without a writer for so many seconds, the room is given back.
IDLE_SECONDS: Final = 5.0
# After an attempt that failed. On a btrfs with a used up quota each one waits for the disk.
RETRY_SECONDS: Final = 10.0


class Guard:
    """Holds room while there are writers. Any thread."""

    def __init__(self, folder: Path) -> None:
        """Prepare the guard of the disk of a folder; it holds nothing."""
        self._folder = folder
        self._lock = threading.Lock()
        self._held: NamelessFile | None = None
        self._writers = 0
        self._refused_at = -math.inf  # monotonic seconds; when the disk last refused the room
        self._left_at = 0.0  # monotonic seconds; when the last writer was removed

    @property
    def bytes(self) -> int:
        """The room that it holds."""
        held = self._held
        return 0 if held is None else held.size

    def add_writer(self, size: int) -> bool:
        """Count a writer, and hold the room for the first one.

        Args:
            size: bytes to hold.

        Returns:
            Whether the room is held. If it cannot be, the writer is not counted.
        """
        with self._lock:
            if self._held is None and time.monotonic() - self._refused_at > RETRY_SECONDS:
                self._hold(size)
            if self._held is not None:
                self._writers += 1
            return self._held is not None

    def _hold(self, size: int) -> None:
        with suppress(OSError):
            self._held = held_room(os.fspath(self._folder), size)
        if self._held is None:
            self._refused_at = time.monotonic()

    def remove_writer(self) -> None:
        """Let `release` give back the room, if this was the last writer."""
        with self._lock:
            self._writers -= 1
            self._left_at = time.monotonic()

    def release(self, idle_seconds: float = 0) -> None:
        """Give the room back to the disk, if there is no writer, and was none for so long."""
        with self._lock:
            if not self._writers and time.monotonic() - self._left_at >= idle_seconds:
                self._close()

    def close(self) -> None:
        """Give the room back, even if there are writers."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None
