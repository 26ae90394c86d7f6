"""A private copy of an index's file at one commit, for a read that takes long.

While a read transaction sees a commit, no later commit reuses the pages that it frees, so the file
grows with each one. A check of a large store takes hours. So it copies the file, which takes about
a second for a GB, and reads the copy. That has no name and ends with the process.

The pages are copied as they lie, free ones too, and both meta pages are that of the commit. On file
systems that share blocks between files (btrfs, xfs) this takes no room.

Example. `fsck` begins at commit 8, whose pages are a to e. While it copies them, commit 9 frees b.
Commit 10 may reuse b in the index's file; fsck reads its own b.
"""

import errno
import logging
import os
import tempfile
from contextlib import suppress
from typing import IO, Final

import lmdb

from modelfs.errors import StoreFull
from modelfs.store.disk.directory import Directory, link_to
from modelfs.store.index.opening import translated
from modelfs.store.index.pages.layout import PageFile
from modelfs.store.index.pages.meta import page_of, read_metas
from modelfs.store.index.tables import Table

log = logging.getLogger(__name__)

# A copy takes at most this part of a disk's free room.
PART_MAX: Final = 0.5
COPY_BYTES: Final = 16 << 20


class CommitGone(Exception):
    """No meta page names the commit of a snapshot any more."""


class IndexCopy:
    """An open copy of an index."""

    def __init__(self, folder: Directory, snapshot: "lmdb.Transaction[bytes]") -> None:
        """Copy a data file.

        Args:
            folder: of the index.
            snapshot: a read transaction, which keeps the pages as they are until this returns.

        Raises:
            CommitGone: two later commits have overwritten the snapshot's meta page.
            StoreFull: no disk has room for the copy.
            OSError: the disk failed.
        """
        with PageFile(folder) as pages:
            metas = [meta for meta in read_metas(pages) if meta is not None]
            meta = next((meta for meta in metas if meta.transaction == snapshot.id()), None)
            if meta is None:
                raise CommitGone
            size = min(pages.size, (meta.last + 1) * meta.page_size)
            self._file = _new_file(folder, size)
            try:
                _copy(pages.fileno(), self._file.fileno(), size)
                for number in range(2):
                    start = number * meta.page_size
                    os.pwrite(self._file.fileno(), page_of(meta, number), start)
                os.truncate(self._file.fileno(), (meta.last + 1) * meta.page_size)
                self._open()
            except BaseException:
                self._file.close()
                raise

    def _open(self) -> None:
        try:
            self._env = lmdb.open(
                link_to(self._file.fileno()),
                subdir=False,
                readonly=True,
                lock=False,
                max_dbs=len(Table),
                max_spare_txns=0,
                readahead=False,
            )
            self.databases = {}
            for table in Table:
                with suppress(lmdb.NotFoundError):  # a store of an older format has fewer
                    self.databases[table] = self._env.open_db(table.value.encode(), create=False)
            self.transaction = self._env.begin()
        except lmdb.Error as exc:
            raise translated(exc) from exc

    def close(self) -> None:
        self.transaction.abort()
        self._env.close()
        self._file.close()


def _new_file(folder: Directory, size: int) -> IO[bytes]:
    """Return a new file without a name, on a disk that has room for `size` bytes.

    Raises:
        StoreFull: there is none.
    """
    # A dot at the end: `tempfile` follows no link.
    for place in (os.path.join(folder.link, "."), tempfile.gettempdir()):
        with suppress(OSError):  # a reader may not write the store
            disk = os.statvfs(place)
            if size < disk.f_bavail * disk.f_frsize * PART_MAX:
                file = tempfile.TemporaryFile(dir=place)  # noqa: SIM115 - its copy closes it
                if _can_be_opened(file.fileno()):
                    return file
                file.close()
    raise StoreFull(f"no room for a copy of the index, of {size} bytes")


def _can_be_opened(fd: int) -> bool:
    """Whether a file without a name can be opened again, as LMDB does; not so on FUSE, or NFS."""
    try:
        os.close(os.open(link_to(fd), os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _copy(source: int, target: int, size: int) -> None:
    start = 0
    while start < size:
        count = min(COPY_BYTES, size - start)
        try:
            copied = os.copy_file_range(source, target, count, start, start)
        except OSError as exc:
            if exc.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            copied = os.pwrite(target, os.pread(source, count, start), start)
        if not copied:
            return  # the file ends here: pages behind it are unwritten, and unused
        start += copied
