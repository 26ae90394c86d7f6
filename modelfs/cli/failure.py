"""How a command fails: with one line that says what to do next, and an exit code."""

import enum
import errno
from collections.abc import Iterator
from typing import Final

from modelfs.cli.escape import plain
from modelfs.errors import (
    CorruptData,
    IndexLost,
    ModelfsError,
    NotAStore,
    StoreBusy,
    StoreFull,
    StoreReadOnly,
    UnsupportedFormat,
)


class Code(enum.IntEnum):
    """Exit codes. Those from 4 on are `fsck`'s, as in fsck(8), and so is its 1."""

    OK = 0
    FAILED = 1
    REPAIRED = 1  # fsck's
    USAGE = 2
    DAMAGED = 4
    NOT_CHECKED = 8
    FSCK_USAGE = 16
    INTERRUPTED = 130


class Failure(Exception):
    """What the user is told instead of what was asked for. The message says what to do next."""

    def __init__(self, message: str, code: Code = Code.FAILED) -> None:
        super().__init__(message)
        self.code = code


# Whatever else is raised is a bug.
EXPECTED: Final = (Failure, ModelfsError, OSError)

# What to do next. The first class that fits counts.
HINTS: Final[tuple[tuple[type[ModelfsError], str], ...]] = (
    (StoreBusy, "unmount it first, or wait for the other command to end"),
    (StoreFull, "free some room on the disk that holds the store"),
    (NotAStore, "`modelfs mkfs` makes a store"),
    (UnsupportedFormat, "install a newer version of modelfs"),
    (StoreReadOnly, "`modelfs mount --read-only` can show it as it is"),
    (IndexLost, "restore the store from a backup"),
    (CorruptData, "`modelfs fsck --data` tells how much is damaged, --repair mends what it can"),
)
ERRNO_HINTS: Final = {
    errno.EACCES: "only its owner and root may",
    errno.ENOSPC: "free some room on that disk",
    errno.EROFS: "its disk is mounted read-only",
    errno.EIO: "the disk failed: see the kernel's log (dmesg)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def describe(exc: Exception) -> str:
    """Return one line for an error: what is wrong, and what to do about it."""
    return plain(" ".join("; ".join(_parts(exc)).split()))


def hinted(problem: str, number: object) -> str:
    """Return a problem with what to do about an errno, if there is something."""
    hint = ERRNO_HINTS.get(number) if isinstance(number, int) else None
    return problem if hint is None else f"{problem}; {hint}"


def _parts(exc: Exception) -> Iterator[str]:
    match exc:
        case Failure():
            yield str(exc)
        case ModelfsError():
            yield str(exc) or type(exc).__name__
            yield from [hint for kind, hint in HINTS if isinstance(exc, kind)][:1]
        case OSError():
            what = exc.strerror or str(exc)
            said = f"{exc.filename}: {what}" if exc.filename is not None else what
            yield hinted(said, exc.errno)
        case _:
            yield f"bug: {type(exc).__name__}: {exc}"
            yield "set MODELFS_DEBUG=1 to see where, and please report it"
