"""The whole staging files of a store: their beginning, their end, and the copies that remain.

See `whole_file` for the theory of operation.
"""

import os

from modelfs.store.disk.deferred import Deferred, DeferredDeletes, DeferredPunches
from modelfs.store.disk.descriptors import Descriptors
from modelfs.store.disk.directory import Directory
from modelfs.store.files.copies import Copies
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.files.whole_file import WholeFile
from modelfs.store.files.window import WHOLE, WINDOW, StagedSum, Window, window_name
from modelfs.store.files.window_file import WindowFile
from modelfs.store.index.index import Index
from modelfs.store.index.records import SIZE_MAX
from modelfs.store.index.tables import InodeNumber


class KeptCopies(Deferred[WholeFile]):
    """Copies whose files the next commit no longer mentions."""

    def _attempt(self, work: WholeFile) -> bool:
        work.is_mentioned = False
        return True


class WholeFiles:
    """Begins, follows and ends the whole files of staged states."""

    def __init__(
        self,
        folder: Directory,
        index: Index,
        writable: Descriptors,
        kept: dict[WindowFile, None],
        deletes: DeferredDeletes,
        total: StagedSum,
    ) -> None:
        """Begin without a file.

        Args:
            folder: of the staging files.
            index: of the store.
            writable: opens staging files for writing.
            kept: as for `WindowFile`.
            deletes: deletes staging files.
            total: the number of staged bytes.
        """
        self.descriptors = Descriptors(folder, os.O_RDONLY)
        self.punches = DeferredPunches(folder, writable)
        self._index = index
        self._writable = writable
        self._kept = kept
        self._deletes = deletes
        self._total = total
        self.cuts = 0  # truncations of whole files
        self.copies = Copies(self._delete_copy)
        # Files of copies that no commit mentions. Unlinking a large one takes long.
        self.trash = DeferredDeletes(folder, self.descriptors)
        self.kept = KeptCopies(folder, self.descriptors)

    def begin(self, staged: StagedFile, generation: int) -> WholeFile:
        """Give a file without content a whole staging file, which the kernel may write.

        Raises:
            OSError: it cannot be made.
        """
        assert staged.whole is None, "it has one"
        assert not staged.windows, "it has content"
        generation |= WHOLE
        name = window_name(staged.inode, 0, generation)
        whole = WholeFile(self.descriptors, self._writable, name, self._kept, generation)
        whole.create(staged.mtime_ns)
        staged.whole = whole
        self.follow(staged)
        return whole

    def follow(self, staged: StagedFile) -> None:
        """Bring a staged state up to the bytes that the kernel has written to its whole file."""
        staged.follow_whole(self._total)

    def prove_final(self, staged: StagedFile) -> bool:
        """Return whether a file stays as it is, until a program opens it for writing again.

        Asks the kernel about a live whole file, and follows its last writes if it is no more so.

        Raises:
            OSError: its whole file cannot be opened.
        """
        whole = staged.whole
        if whole is None or not whole.live:
            return True
        if not whole.prove_unwritten():
            return False
        self.follow(staged)  # with the writes until then
        return True

    def truncate(self, staged: StagedFile, size: int) -> None:
        """Set the size of a whole file, before its staged state gets that size.

        If the file becomes empty, and no program has it open or mapped, it is a whole file no more:
        its windows are superseded, and a crash leaves the old content.

        Raises:
            OSError: the disk failed, or has no files of that size.
        """
        whole = staged.whole
        assert whole is not None, "no whole file"
        if size == 0 and self.prove_final(staged) and staged.size and whole.is_unused():
            staged.whole = None
            if not any(window.recorded for window in staged.windows.values()):
                # At once, or a program that truncates its file again and again would leave many.
                self._delete(whole, at_once=not whole.was_recorded)
            return
        self.cuts += 1
        whole.truncate(size)
        whole.cut(size, SIZE_MAX)

    def end(self, staged: StagedFile) -> None:
        """Let a staged state have no whole file, as its windows are dropped.

        If programs have it open or mapped, or it may be hot, it is kept as a copy.
        """
        whole, staged.whole = staged.whole, None
        assert whole is not None, "no whole file"
        if whole.is_unused() and not self.copies.fits(whole.disk_bytes()):
            self._delete(whole)
        else:
            self.copies.add(staged.inode, whole)
            whole.is_mentioned = True
            self.kept.after_commit(whole)

    def remove(self, inode: InodeNumber, staged: StagedFile | None) -> None:
        """Delete the whole file of an inode that is removed, and its copy."""
        if staged is not None and staged.whole is not None:
            self._delete(staged.whole)
            staged.whole = None
        if (copy := self.copies.take(inode)) is not None:
            self._delete(copy)

    def delete_superseded(self, staged: StagedFile, dropped: list[Window]) -> None:
        """Delete the whole files of superseded windows that were dropped, if none are left."""
        for file in {window.file for window in dropped} - _files_of(staged):
            if isinstance(file, WholeFile):
                self._delete(file)

    def give_back(self, staged: StagedFile, dropped: list[Window]) -> None:
        """Let the next commit give back the room of windows of a divided file that were dropped."""
        in_use = _files_of(staged)
        for file in {window.file for window in dropped}:
            assert isinstance(file, WholeFile), "a window with a file of its own"
            if file not in in_use:
                self._delete(file)
        for window in dropped:
            if window.file in in_use and isinstance(window.file, WholeFile):
                stop = window.start + WINDOW
                window.file.gave_back(window.start, stop)
                self.punches.after_commit((window.file.name, window.start, stop))

    def punch_gaps(self, staged: StagedFile) -> None:
        """Let the next commit give back the room of windows that an earlier session has dropped."""
        divided = [window for window in staged.windows.values() if window.is_divided]
        at = 0
        for window in sorted(divided, key=lambda window: window.start):
            if at < window.start:
                self.punches.after_commit((window.file.name, at, window.start))
            at = window.start + WINDOW
        if divided:
            self.punches.after_commit((divided[0].file.name, at, SIZE_MAX))

    def _delete(self, whole: WholeFile, *, at_once: bool = False) -> None:
        """Delete a whole file with the next commit; at once if the last one does not mention it."""
        whole.forget()
        self.descriptors.forget(whole.name)
        if at_once:
            self._deletes.run(names := [whole.name])
            self._deletes.restore(names)
        else:
            self._deletes.after_commit(whole.name)

    # -- copies

    def new_copy(self, inode: InodeNumber, generation: int) -> WholeFile:
        """Make the empty file of a copy. Raises OSError if it cannot be made."""
        generation |= WHOLE
        name = window_name(inode, 0, generation)
        whole = WholeFile(
            self.descriptors, self._writable, name, self._kept, generation, live=False
        )
        whole.create(0)
        return whole

    def empty_trash(self) -> None:
        """Delete the files of dropped copies. Any thread: unlinking a large file takes long."""
        names = self.trash.drain()
        self.trash.run(names)
        self.trash.restore(names)

    def discard(self, whole: WholeFile) -> None:
        """Let the file of a copy be deleted soon, which no commit mentions."""
        whole.forget()
        self.descriptors.forget(whole.name)
        self.trash.after_commit(whole.name)

    def _delete_copy(self, whole: WholeFile) -> None:
        if whole.is_mentioned:
            self._delete(whole)
        else:
            self.discard(whole)

    def resume(self, staged: StagedFile) -> None:
        """Begin a change of a file. A copy of it, if programs have it open, becomes its content.

        Raises:
            OSError: the copy cannot be opened.
        """
        if self.copies.drop(staged.inode):
            return
        copy = self.copies.find(staged.inode)
        assert copy is not None, "dropped"
        copy.is_proven = False
        copy.set_mtime(staged.mtime_ns)  # a change of the time is not passed on to it
        staged.whole = self.copies.take(staged.inode)
        self.follow(staged)


def _files_of(staged: StagedFile) -> set[WindowFile | None]:
    """Return the files of all windows that have a row or may get one."""
    windows = (*staged.windows.values(), *staged.superseded)
    return {staged.whole, *(window.file for window in windows)}
