"""Deletes that wait for a commit.

A file of the store may go only when the index that no longer mentions it is durable. So whoever
stops mentioning a file calls `delete_after_commit`; the store takes the list when it seals a
commit, and deletes the files when that commit is on the disk. If the commit fails, the list comes
back for the next one. A crash in between leaves files that no index mentions, and the next open
removes them.
"""

from pathlib import Path

from modelfs.store.disk.descriptors import Descriptors


class DeferredDeletes:
    """The files of one folder that the next commit no longer mentions."""

    def __init__(self, folder: Path, files: Descriptors) -> None:
        self._folder = folder
        self._files = files
        self._names: list[str] = []

    def delete_after_commit(self, name: str) -> None:
        """Let the next commit delete a file."""
        self._names.append(name)

    def hand_over(self) -> list[str]:
        """Return the files to delete once all changes made so far are durable, and forget them."""
        names, self._names = self._names, []
        return names

    def take_back(self, names: list[str]) -> None:
        """Wait for the next commit with files that were handed over to one that failed."""
        self._names.extend(names)

    def run(self, names: list[str]) -> None:
        """Delete files. Any thread.

        Raises:
            OSError: one of them cannot be deleted.
        """
        for name in names:
            self._files.forget(name)
            (self._folder / name).unlink(missing_ok=True)
