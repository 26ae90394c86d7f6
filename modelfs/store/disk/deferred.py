"""Work on files that waits for a commit, such as deletes.

A file of the store may be deleted only after the index that no longer mentions it is durable. So
the code that removes the last mention calls `after_commit`. The store drains the list when it seals
a commit, and deletes the files when that commit is on the disk. Names return to the list if the
commit fails or is cancelled, and each name whose file could not be deleted. A crash in between
leaves files that no index mentions; the next open deletes them.

The list belongs to the owner's thread. Another thread that does the work changes the drained list
only, and the owner restores the pieces that are left in it.

Example. gc empties pack 3. It deletes the pack's row and calls
`after_commit("00000003.pack")`. The commit drains that name and writes the index. If the
disk is full, the name is restored and the file stays, because the old index still mentions it.
Otherwise `run` deletes the file.
"""

import errno
import logging
import os
from abc import abstractmethod
from typing import Generic, TypeVar

from modelfs.store.disk.allocation import punch
from modelfs.store.disk.descriptors import Descriptors
from modelfs.store.disk.directory import Directory

log = logging.getLogger(__name__)

W = TypeVar("W")


class Deferred(Generic[W]):
    """Work on the files of one folder, each piece for the commit after it was listed."""

    def __init__(self, folder: Directory, files: Descriptors) -> None:
        self._folder = folder
        self._files = files
        self._listed: list[W] = []

    def after_commit(self, work: W) -> None:
        """Let the next commit do a piece of work."""
        self._listed.append(work)

    def drain(self) -> list[W]:
        """Return the listed work and empty the list.

        The caller does it with `run` once all changes made so far are durable, and passes the list
        to `restore` in any case.
        """
        drained, self._listed = self._listed, []
        return drained

    def restore(self, drained: list[W]) -> None:
        """Put drained work back, as far as it is not done."""
        self._listed.extend(drained)

    def run(self, drained: list[W]) -> None:
        """Do drained work, and leave in the list the pieces that cannot be done yet. Any thread.

        An error of the disk is logged, and keeps no other piece from being done.
        """
        left: list[W] = []
        for work in drained:
            try:
                if self._attempt(work):
                    continue
            except OSError as exc:
                log.warning("an unused file of the store cannot be deleted or cut: %s", exc)
            left.append(work)
        drained[:] = left

    @abstractmethod
    def _attempt(self, work: W) -> bool:
        """Do a piece of work; return whether it could be done. May be repeated.

        Raises:
            OSError: a file cannot be changed.
        """


class DeferredPunches(Deferred[tuple[str, int, int]]):
    """Ranges of files that the next commit no longer mentions: name, start, stop."""

    def _attempt(self, work: tuple[str, int, int]) -> bool:
        name, start, stop = work
        try:
            file = self._files.open(name)
            if start < (size := os.fstat(file.fd).st_size):
                punch(file.fd, start, min(stop, size))
        except FileNotFoundError:
            return True
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:
                raise
        return True  # a disk without holes gives the room back with the file


class DeferredDeletes(Deferred[str]):
    """The files of one folder that the next commit no longer mentions, by name."""

    def _attempt(self, work: str) -> bool:
        self._files.forget(work)
        self._folder.unlink(work)
        return True
