"""The file of an index: commits to it, its length, copies of it, and its compaction.

Theory of operation. A commit repeats its changes while LMDB's map is too small for them, and then
makes the file as long as the pages in use (see `pages.data_file`), and writes a record of the
commit (see `pages.meta`). Pages that a commit frees are used by later ones, so the file never
becomes shorter by itself. If most pages are unused when the index is opened, all rows are copied to
a new file, which takes the place of the old one.

If the disk has room for only a part of a write, LMDB fails with EIO, as if the disk were broken:
`mdb_page_flush` writes no second time, and so does not see ENOSPC. So after EIO a commit looks
whether there is room.

Example. A store with 900 MiB of rows loses most of its files: 100 MiB are left in a file of 900
MiB. At the next opening `compact` writes a file of 100 MiB and renames it. Later a commit takes two
new pages at the end and leaves the last one unwritten: `write` makes the file 4 KiB longer.
"""

import contextlib
import errno
from collections.abc import Callable
from typing import Final

import lmdb

from modelfs.errors import MapFull, StoreBusy, StoreFull
from modelfs.store.disk.allocation import is_full
from modelfs.store.disk.directory import Directory
from modelfs.store.index.copy import CommitGone, IndexCopy
from modelfs.store.index.environment import Environment
from modelfs.store.index.opening import translated, used_bytes
from modelfs.store.index.pages.data_file import DataFile
from modelfs.store.index.pages.meta import record_close, write_record
from modelfs.store.index.pages.meta_check import withdraw
from modelfs.store.index.rebuild import copy_compact, remove_new, replace_data_file

# How often a copy is tried, if commits of another process overwrite the meta page before it.
COPIES_MAX: Final = 20
# After a write that was cut short, a disk has less room than this.
PROBE_SIZE: Final = 1 << 20


class IndexFile:
    """Writes, copies and compacts the file of an environment. Any thread."""

    def __init__(self, folder: Directory, environment: Environment) -> None:
        self._folder = folder
        self._environment = environment
        self._file = DataFile(folder)

    def write(self, work: Callable[["lmdb.Transaction[bytes]"], None]) -> None:
        """Call `work` in a transaction and commit; repeat that while the map is too small.

        Raises: as `Environment.transaction`; nothing was written then, unless the error comes after
            the commit, from lengthening the file. To write the same again does no harm.
        """
        while True:
            transaction = self._environment.transaction(write=True)
            try:
                with transaction as begun:
                    work(begun)
                break
            except MapFull:
                self._environment.recover(transaction.env, lmdb.MapFullError)
            except (StoreFull, OSError) as exc:
                withdraw(self._folder)
                is_cut = isinstance(exc, OSError) and exc.errno == errno.EIO
                if is_cut and is_full(self._folder.link, PROBE_SIZE):
                    raise StoreFull("no space left for the index: a write was cut short") from exc
                raise
        with self._environment.acquired() as env:
            self._environment.free_slots(env)
            self._lengthen(env)
            write_record(self._folder, env.info()["last_txnid"])

    def sync(self) -> None:
        """Make the last commit durable, if it is not yet.

        Raises:
            OSError: the disk failed; the commit may or may not be durable.
        """
        with self._environment.acquired() as env:
            try:
                env.sync(True)
            except lmdb.Error as exc:
                raise translated(exc) from exc

    def record_sums(self) -> None:
        """Record the sums of all pages, before the environment is closed for good."""
        record_close(self._folder)

    def used(self) -> int:
        """Return the bytes of the file that are in use, as of the last commit."""
        with self._environment.acquired() as env:
            return used_bytes(env)

    def copy(self) -> IndexCopy:
        """Return a copy of the last commit.

        Raises:
            StoreFull: no disk has room for it.
            StoreBusy: another process commits all the time.
            OSError: the disk failed.
        """
        for _ in range(COPIES_MAX):
            with self._environment.transaction() as snapshot, contextlib.suppress(CommitGone):
                return IndexCopy(self._folder, snapshot)
        raise StoreBusy("index: too many commits of another process")

    def compact(self, room: int) -> None:
        """Give unused pages back to the disk, if most are unused. For the owner, at opening.

        Args:
            room: bytes that the store may use meanwhile. With less than the copy needs it is not
                made.

        Raises:
            OSError: the disk failed; the index has all its rows.
        """
        remove_new(self._folder)
        with self._environment.acquired() as env:
            used = used_bytes(env)
            if not copy_compact(env, self._folder, used, used - self._free(env), room):
                return
        self._environment.reopen()
        replace_data_file(self._folder)
        self._file = DataFile(self._folder)

    def _lengthen(self, env: lmdb.Environment) -> None:
        used = used_bytes(env)
        self._file.lengthen(used, self._free(env) if self._file.needs_blocks(used) else 0)

    def _free(self, env: lmdb.Environment) -> int:
        """Return the bytes of unused pages before the end of the last page in use."""
        try:
            with env.begin() as snapshot:
                tables = [env.stat(), *map(snapshot.stat, self._environment.databases.values())]
        except lmdb.Error:
            return 0  # not this commit's error, for it succeeded; the next read raises it
        pages = sum(
            table["branch_pages"] + table["leaf_pages"] + table["overflow_pages"]
            for table in tables
        )
        return used_bytes(env) - pages * env.stat()["psize"]
