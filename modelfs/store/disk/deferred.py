"""Work on files that waits for a commit, such as deletes.

A file of the store may be deleted only after the index that no longer mentions it is durable. So
the code that removes the last mention calls `after_commit`. The store drains the list when it seals
a commit, and deletes the files when that commit is on the disk. If the commit fails, the names
return to the list. A crash in between leaves files that no index mentions; the next open
deletes them.

Example. gc empties pack 3. It deletes the pack's row and calls
`after_commit("00000003.pack")`. The commit drains that name and writes the index. If the
disk is full, the name is restored and the file stays, because the old index still mentions it.
Otherwise `run` deletes the file.
"""

from abc import abstractmethod
from typing import Generic, TypeVar

from modelfs.store.disk.descriptors import Descriptors
from modelfs.store.disk.directory import Directory

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

        The caller does it with `run` once all changes made so far are durable.
        """
        drained, self._listed = self._listed, []
        return drained

    def restore(self, drained: list[W]) -> None:
        """Put drained work back, because its commit failed."""
        self._listed.extend(drained)

    @abstractmethod
    def run(self, drained: list[W]) -> None:
        """Do drained work. Any thread.

        Raises:
            OSError: a file cannot be changed.
        """


class DeferredDeletes(Deferred[str]):
    """The files of one folder that the next commit no longer mentions, by name."""

    def run(self, drained: list[str]) -> None:
        for name in drained:
            self._files.forget(name)
            self._folder.unlink(name)
