"""The note of losses of whole commits, which makes an interrupted repair go on where it was.

Theory of operation. A repair of the index's pages may go back to an older commit, or leave rows
out. Then files of the store may belong to rows that are lost. Repair sets them aside as its last
step, since other rows may lead to them; opening the store for writing would remove them. So the
losses are noted, durably, before the first of them, and the store is opened by nothing but repair
until the note is removed. A repair that finds a note has its losses in its report.

Example. Both meta pages are damaged, and only commit 8 can be restored::

    note      repair.unfinished has the line "a meta page ...; changes of a later commit ..."
    write     the meta pages are those of commits 7 and 8; the process is killed
    mount     "a repair of /store has not finished; finish it with `modelfs fsck --repair`"
    repair    staging file 5-0-3, which commit 9 mentioned, goes to quarantine; the note is removed
"""

import os

from modelfs.errors import CorruptIndex
from modelfs.jobs.check.findings import Finding
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import UNFINISHED, check_finished


def unfinished_repair_findings(store: Directory) -> list[Finding]:
    """Return the finding about an unfinished repair of a store, if there is one.

    All its pages may be sound; nothing else is checked before the repair is finished.
    """
    try:
        check_finished(store)
    except CorruptIndex as exc:
        return [Finding("repair", f"{exc}; the rest is not checked")]
    return []


class LossNote:
    """The note in a store's folder. It has a line for each loss."""

    def __init__(self, store: Directory) -> None:
        """Read the note of an interrupted repair; the caller has the store's lock."""
        self._store = store
        note = store.read(UNFINISHED) if self.exists() else b""
        self.losses = note.decode(errors="replace").splitlines()

    def exists(self) -> bool:
        """Whether there is a note; one without a line is that of a process that ended in `add`."""
        return self._store.exists(UNFINISHED)

    def add(self, loss: str) -> None:
        """Add a line, durably."""
        if loss in self.losses:
            return
        with self._store.opened(UNFINISHED, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as fd:
            os.write(fd, f"{loss}\n".encode())
            os.fsync(fd)
        self._store.sync()
        self.losses.append(loss)

    def remove(self) -> None:
        """Remove the note: all files of lost commits are set aside."""
        self._store.unlink(UNFINISHED)
        self._store.sync()
