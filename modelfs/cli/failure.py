"""The failure of a command: one line with the problem and the next step, and an exit code."""

import contextlib
import enum
import errno
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from modelfs.cli.escape import plain
from modelfs.cli.permission import permission_denied
from modelfs.errors import (
    CorruptData,
    FolderMissing,
    IndexLost,
    IrregularFile,
    LostBytes,
    ModelfsError,
    NoSlots,
    NotAStore,
    StoreBusy,
    StoreFull,
    StoreNotTrusted,
    StoreReadOnly,
    UnsupportedFormat,
)


class Code(enum.IntEnum):
    """Exit codes. `fsck` uses those of fsck(8): 0, 1, 4, 8 and 16."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DAMAGED = 4
    NOT_CHECKED = 8
    FSCK_USAGE = 16
    INTERRUPTED = 130
    CLOSED_PIPE = 141  # as of a process that SIGPIPE ends


class Failure(Exception):
    """A failure that a command expects. The message names the problem and the next step."""

    def __init__(self, message: str, code: Code = Code.FAILED) -> None:
        super().__init__(message)
        self.code = code


@contextlib.contextmanager
def interruptible(outcome: str) -> Iterator[None]:
    """Turn Ctrl-C in the block into a failure, whose message has the outcome and the next step."""
    try:
        yield
    except KeyboardInterrupt as exc:
        raise Failure(f"interrupted; {outcome}", Code.INTERRUPTED) from exc


# Any other exception is a bug.
EXPECTED: Final = (Failure, ModelfsError, OSError)

# Of a store that is full.
MAKE_ROOM: Final = (
    "remove files, free space on the disk of the store, or mount with a larger --limit"
)
# Next steps. The first class that fits counts.
HINTS: Final[tuple[tuple[type[ModelfsError], str], ...]] = (
    (NoSlots, "its owner can give that to your group, with chgrp and chmod g+w; or unmount it"),
    (StoreBusy, "end its other use first: unmount it, or wait for the other command to end"),
    (StoreFull, MAKE_ROOM),
    (NotAStore, "create one with: modelfs mkfs FOLDER"),
    (UnsupportedFormat, "install a newer version of modelfs"),
    (IrregularFile, "put the file or folder itself there, or remove it"),
    (StoreNotTrusted, "to use it all the same, if you trust all who can write in it: --trust"),
    (StoreReadOnly, "mount it with --read-only to read its files"),
    (IndexLost, "restore the store from a backup"),
    (FolderMissing, "otherwise restore it from a backup"),
    (LostBytes, "write these bytes again, truncate the file or remove it"),
    (CorruptData, "check it with `modelfs fsck --data`, repair it with `modelfs fsck --repair`"),
)
ERRNO_HINTS: Final = {
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "free space that the quota counts, or raise the quota",
    errno.EROFS: "its disk is mounted read-only",
    errno.EIO: "the disk failed: see the kernel's log (dmesg)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
DAEMON_HINTS: Final = {**ERRNO_HINTS, errno.ENOSPC: MAKE_ROOM}


def describe(exc: Exception) -> str:
    """Return one line for an exception: the problem, and the next step."""
    match exc:
        case Failure():
            parts = [str(exc)]
        case ModelfsError(__cause__=PermissionError(filename=str() | Path() as name)):
            parts = [permission_denied(Path(name))]
        case ModelfsError():
            parts = [str(exc) or type(exc).__name__, *next_steps(exc)]
        case PermissionError(filename=str() | Path() as name):
            parts = [permission_denied(Path(name))]
        case OSError(__cause__=ModelfsError() as cause):
            parts = [exc.strerror or str(exc), *next_steps(cause)]
        case OSError():
            problem = exc.strerror or str(exc)
            if exc.filename is not None:
                problem = f"{exc.filename}: {problem}"
            parts = [with_hint(problem, exc.errno)]
        case _:
            parts = [f"bug: {type(exc).__name__}: {' '.join(str(exc).split())}"]
            parts.append("set MODELFS_DEBUG=1 to see the traceback, and please report it")
    return plain("; ".join(parts))


def next_steps(exc: ModelfsError) -> list[str]:
    """Return the next step for an exception, if there is one."""
    return [hint for kind, hint in HINTS if isinstance(exc, kind)][:1]


def with_hint(problem: str, number: object, hints: Mapping[int, str] = ERRNO_HINTS) -> str:
    """Return a problem with the next step for an errno, if there is one."""
    hint = hints.get(number) if isinstance(number, int) else None
    return problem if hint is None else f"{problem}; {hint}"
