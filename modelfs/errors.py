"""Every failure modelfs raises on purpose, and the errno the kernel sees for it.

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
    |-- StoreFull            ENOSPC
    |-- StoreReadOnly        EROFS
    |-- StoreBusy            EBUSY
    |-- NotAStore            EINVAL
    |-- UnsupportedFormat    EIO
    `-- CorruptData          EIO
        |-- CorruptIndex     EIO
        |   `-- IndexLost    EIO
        |-- CorruptPack      EIO
        `-- CorruptChunk     EIO
"""

import errno
from typing import ClassVar


class ModelfsError(Exception):
    """Base of the hierarchy; only its subclasses are raised."""

    errno: ClassVar[int] = errno.EIO


class NotFound(ModelfsError):
    """No such name in that directory, or no such inode."""

    errno = errno.ENOENT


class AlreadyExists(ModelfsError):
    """The name is taken."""

    errno = errno.EEXIST


class NotADirectory(ModelfsError):
    """A directory was needed."""

    errno = errno.ENOTDIR


class IsADirectory(ModelfsError):
    """Anything but a directory was needed."""

    errno = errno.EISDIR


class DirectoryNotEmpty(ModelfsError):
    """The directory has entries."""

    errno = errno.ENOTEMPTY


class NotPermitted(ModelfsError):
    """The operation makes no sense on this object, whoever asks."""

    errno = errno.EPERM


class InvalidArgument(ModelfsError):
    """An argument that can never be right, such as a directory moved below itself."""

    errno = errno.EINVAL


class TooManyLinks(ModelfsError):
    """The link count has reached its maximum."""

    errno = errno.EMLINK


class NameTooLong(ModelfsError):
    """A name of more than 255 bytes, or a symbolic link's target of more than 4,095."""

    errno = errno.ENAMETOOLONG


class FileTooLarge(ModelfsError):
    """Past the largest file size."""

    errno = errno.EFBIG


class AttributeTooLarge(ModelfsError):
    """An extended attribute's value past the kernel's 64 KiB."""

    errno = errno.E2BIG


class NoAttribute(ModelfsError):
    """No such extended attribute."""

    errno = errno.ENODATA


class NotSupported(ModelfsError):
    """A feature that modelfs does not have, such as POSIX ACLs."""

    errno = errno.EOPNOTSUPP


class StoreFull(ModelfsError):
    """The backing disk, the index map or the store's own limit has no room left."""

    errno = errno.ENOSPC


class StoreReadOnly(ModelfsError):
    """The store was opened for reading only."""

    errno = errno.EROFS


class StoreBusy(ModelfsError):
    """Another process has the store open for writing."""

    errno = errno.EBUSY


class NotAStore(ModelfsError):
    """The folder is not a modelfs store."""

    errno = errno.EINVAL


class UnsupportedFormat(ModelfsError):
    """The store was written by a newer version, in a format this one does not know."""


class CorruptData(ModelfsError):
    """Stored bytes break an invariant. `modelfs fsck` reports the extent of it."""


class CorruptIndex(CorruptData):
    """An index record does not decode, or refers to something that is not there."""


class IndexLost(CorruptIndex):
    """The index cannot be read at all, and nothing in the store can stand in for it."""


class CorruptPack(CorruptData):
    """A pack file is missing, cut short, or not what its header should say."""


class CorruptChunk(CorruptData):
    """A chunk's bytes do not decode, or do not match their checksum.

    If it derives from others, and one of those is damaged, that one is the `base`.
    """

    def __init__(self, chunk: int, problem: str, base: int | None = None) -> None:
        super().__init__(f"chunk {chunk}: {problem}")
        self.chunk = chunk
        self.base = chunk if base is None else base
