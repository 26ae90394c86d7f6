"""How a reader without slots in the index's lock file keeps writers out.

Without a slot, a commit would reuse pages while they are read (see `index.lock_file`). So a reader
that may not write the lock file has a shared flock(2) on the store during each call. Once it has
the permission, it opens the index with slots, and needs no lock any more.

Example. A user who may only read a store opens it. Each call locks it, and a daemon that starts
meanwhile fails with `StoreBusy`. The daemon starts between two calls; the next call raises
`StoreBusy`. After `chmod g+w index/lock.mdb`, `gain_slots` returns True, and calls succeed.
"""

import fcntl
import io
from collections.abc import Iterator
from contextlib import contextmanager

from modelfs.errors import NoSlots, StoreBusy
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import INDEX, lock
from modelfs.store.index.index import Index
from modelfs.store.index.lock_file import LMDB_LOCK_FILE, may_lock


def lock_out_writers(folder: Directory, index: Directory) -> io.FileIO | None:
    """Lock a store against writers until the returned file is closed.

    Returns:
        None if this process has slots, and needs no lock.

    Raises:
        StoreBusy: another process has the store open for writing.
    """
    return None if may_lock(index) else _lock(folder)


class WriterExclusion:
    """The locks of calls in progress. Any thread."""

    def __init__(self, folder: Directory, index: Index) -> None:
        self._folder = folder
        self._index = index
        self._locks: set[io.FileIO] = set()

    @contextmanager
    def excluding_writers(self) -> Iterator[None]:
        """Exclude writers inside the block, if this process has no slots.

        Raises:
            StoreBusy: another process has the store open for writing.
        """
        if self._index.environment.has_slots:
            yield
            return
        with _lock(self._folder) as file:
            self._locks.add(file)
            try:
                yield
            finally:
                self._locks.discard(file)

    def end_all(self) -> None:
        """End all `excluding_writers`: in a forked child, those of the parent's threads."""
        while self._locks:
            self._locks.pop().close()

    def gain_slots(self) -> bool:
        """Open the index with slots, if this process has the permission by now; return whether."""
        if self._index.environment.has_slots or not may_lock(self._index.directory):
            return False
        self._index.rows.reopen()
        self._index.rows.snapshot_id()  # opens it
        return self._index.environment.has_slots


def _lock(folder: Directory) -> io.FileIO:
    try:
        return lock(folder, fcntl.LOCK_SH)
    except StoreBusy as exc:
        slots = folder.path / INDEX / LMDB_LOCK_FILE
        raise NoSlots(
            f"{exc}; to read beside it, this process needs permission to write {slots}"
        ) from exc
