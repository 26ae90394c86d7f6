"""Every exception that modelfs raises on purpose, and the errno that the kernel gets for it.

The tree::

    ModelfsError             EIO
    |-- NotFound             ENOENT
    |-- AlreadyExists        EEXIST
    |-- NotADirectory        ENOTDIR
    |-- IsADirectory         EISDIR
    |-- DirectoryNotEmpty    ENOTEMPTY
    |-- NotPermitted         EPERM
    |-- InvalidArgument      EINVAL
    |-- TooManyLinks         EMLINK
    |-- NameTooLong          ENAMETOOLONG
    |-- FileTooLarge         EFBIG
    |-- AttributeTooLarge    E2BIG
    |-- NoAttribute          ENODATA
    |-- NotSupported         EOPNOTSUPP
    |-- PastData             ENXIO
    |-- Interrupted          EINTR
    |-- TextBusy             ETXTBSY
    |-- StoreFull            ENOSPC
    |   `-- MapFull          ENOSPC
    |-- StoreReadOnly        EROFS
    |-- StoreBusy            EBUSY
    |   |-- NoSlots          EBUSY
    |   `-- SamePid          EBUSY
    |-- NotAStore            EINVAL
    |-- StoreNotTrusted      EACCES
    |   `-- IrregularFile    EACCES
    |-- UnsupportedFormat    EIO
    `-- CorruptData          EIO
        |-- CorruptIndex     EIO
        |   |-- DamagedPages EIO
        |   `-- IndexLost    EIO
        |-- FolderMissing    EIO
        |-- CorruptPack      EIO
        |-- CorruptChunk     EIO
        `-- LostBytes        EIO, or the errno of the disk: ENOSPC, EDQUOT
"""

import errno
from typing import Any, Self


class ModelfsError(Exception):
    """Base of the hierarchy. Raised itself only for a mount that the kernel refuses."""

    errno: int = errno.EIO


class NotFound(ModelfsError):
    """The name does not exist in the directory, or the inode or the tensor does not exist."""

    errno = errno.ENOENT


class AlreadyExists(ModelfsError):
    """The name exists."""

    errno = errno.EEXIST


class NotADirectory(ModelfsError):
    """A directory is needed, and this is none."""

    errno = errno.ENOTDIR


class IsADirectory(ModelfsError):
    """A regular file is needed, and this is a directory or, to readers, a special file."""

    errno = errno.EISDIR


class DirectoryNotEmpty(ModelfsError):
    """The directory has entries."""

    errno = errno.ENOTEMPTY


class NotPermitted(ModelfsError):
    """The operation is impossible for this kind of inode or this attribute, for every user."""

    errno = errno.EPERM


class InvalidArgument(ModelfsError):
    """The argument is never valid, for example a directory moved below itself."""

    errno = errno.EINVAL


class TooManyLinks(ModelfsError):
    """The link count has reached its maximum."""

    errno = errno.EMLINK


class NameTooLong(ModelfsError):
    """A name has more than 255 bytes, or the target of a symbolic link more than 4,095."""

    errno = errno.ENAMETOOLONG


class FileTooLarge(ModelfsError):
    """The file would be larger than the largest file size."""

    errno = errno.EFBIG


class AttributeTooLarge(ModelfsError):
    """An extended attribute's value, or all names together, have more than the kernel's 64 KiB."""

    errno = errno.E2BIG


class NoAttribute(ModelfsError):
    """The extended attribute does not exist."""

    errno = errno.ENODATA


class NotSupported(ModelfsError):
    """The feature is not supported, for example POSIX ACLs."""

    errno = errno.EOPNOTSUPP


class PastData(ModelfsError):
    """The offset is behind the last data of the file, or behind its end."""

    errno = errno.ENXIO


class Interrupted(ModelfsError):
    """A signal ends the program that waits for the answer."""

    errno = errno.EINTR


class StoreFull(ModelfsError):
    """No space is left on the backing disk, in the index's map, or below the store's limit."""

    errno = errno.ENOSPC


class MapFull(StoreFull):
    """The index's map is full. It can be made larger, unless the address space is full, too."""


class StoreReadOnly(ModelfsError):
    """The store is open for reading only, or its lock file cannot be opened."""

    errno = errno.EROFS


class TextBusy(ModelfsError):
    """A file cannot get set-ID bits or capabilities while it is mapped for writing."""

    errno = errno.ETXTBSY


class StoreBusy(ModelfsError):
    """The store is in use, in a way that excludes this one.

    Another process has locked it, to write it or to keep writers out; or this process has it open
    already, or one with the same PID in another container; or too many transactions read its index.
    """

    errno = errno.EBUSY


class NoSlots(StoreBusy):
    """Another process writes the store, and this one may not read beside it."""


class SamePid(StoreBusy):
    """A process in another container has this one's PID, and the store open."""


class NotAStore(ModelfsError):
    """The folder is not a modelfs store."""

    errno = errno.EINVAL


class StoreNotTrusted(ModelfsError):
    """Other users can change the store: `modelfs.store.folder` has the rules.

    Its folder belongs to another user or may be written by others, or a file in it does.
    """

    errno = errno.EACCES


class IrregularFile(StoreNotTrusted):
    """In the place of a file or folder of a store there is a link, or something else.

    It could lead to other files, so no trust permits it.
    """


class UnsupportedFormat(ModelfsError):
    """A newer version of modelfs wrote the store, in a format that this version cannot read."""


class CorruptData(ModelfsError):
    """Stored bytes break an invariant. `modelfs fsck` reports all damage and its effects."""


class CorruptIndex(CorruptData):
    """A row of the index does not decode, or refers to a missing row."""


class DamagedPages(CorruptIndex):
    """Pages of the index's file are damaged or missing, or the disk cannot read them.

    Attributes:
        problems: a message for each page.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        more = f", and {len(self.problems) - 1} more" if len(self.problems) > 1 else ""
        return f"{self.problems[0]}{more}"


class IndexLost(CorruptIndex):
    """Nothing of the index can be read, and the store has no copy of it."""


class FolderMissing(CorruptData):
    """A folder of the store's files is missing."""


class CorruptPack(CorruptData):
    """A pack file is missing, cut short, or has a damaged header or table."""


class CorruptChunk(CorruptData):
    """A chunk's bytes do not decode, or do not match their checksum.

    Attributes:
        chunk: the chunk that cannot be read.
        problem: the message, without the chunk.
        base: the damaged chunk: `chunk` itself, or one from which it derives.
    """

    def __init__(self, chunk: int, problem: str, base: int | None = None) -> None:
        super().__init__(f"chunk {chunk}: {problem}")
        self.chunk = chunk
        self.problem = problem
        self.base = chunk if base is None else base

    def __reduce__(self) -> tuple[type[Self], tuple[int, str, int], dict[str, Any]]:
        # The inherited method passes `args`, which is the message alone.
        return type(self), (self.chunk, self.problem, self.base), vars(self)


class BytesMoved(ModelfsError):
    """Staged bytes were put into chunks since a read of them was planned. Plan it again."""


class LostBytes(CorruptData):
    """Bytes were written to a file, and the disk failed before they were durable.

    Attributes:
        errno: of the failure, for flushes. A read has EIO.
    """

    def __init__(self, message: str, error: int = errno.EIO) -> None:
        super().__init__(message)
        self.errno = error
