"""Deletes that wait for a commit.

A file of the store may be deleted only after the index that no longer mentions it is durable. So
the code that removes the last mention calls `delete_after_commit`. The store drains the list when
it seals a commit, and deletes the files when that commit is on the disk. If the commit fails, the
names return to the list. A crash in between leaves files that no index mentions; the next open
deletes them.

Example. gc empties pack 3. It deletes the pack's row and calls
`delete_after_commit("00000003.pack")`. The commit drains that name and writes the index. If the
disk is full, the name is restored and the file stays, because the old index still mentions it.
Otherwise `run` deletes the file.
"""

from modelfs.store.disk.descriptors import Descriptors
from modelfs.store.disk.directory import Directory


class DeferredDeletes:
    """The files of one folder that the next commit no longer mentions."""

    def __init__(self, folder: Directory, files: Descriptors) -> None:
        self._folder = folder
        self._files = files
        self._names: list[str] = []

    def delete_after_commit(self, name: str) -> None:
        """Let the next commit delete a file."""
        self._names.append(name)

    def drain(self) -> list[str]:
        """Return the listed files and empty the list.

        The caller deletes the files with `run` once all changes made so far are durable.
        """
        names, self._names = self._names, []
        return names

    def restore(self, names: list[str]) -> None:
        """Put drained names back, because their commit failed."""
        self._names.extend(names)

    def run(self, names: list[str]) -> None:
        """Delete files. Any thread.

        Raises:
            OSError: a file cannot be deleted.
        """
        for name in names:
            self._files.forget(name)
            self._folder.unlink(name)
