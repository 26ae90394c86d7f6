"""Opening a store that no daemon answers for."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from modelfs.cli.client import SOCKET_NAME
from modelfs.cli.failure import Failure
from modelfs.errors import StoreBusy
from modelfs.store.store import Store


def open_unmounted(store: Path) -> Store:
    """Open a store for writing that no daemon answered for.

    Raises:
        Failure: another process has it all the same.
    """
    try:
        return Store(store)
    except StoreBusy as exc:
        raise _in_use(store) from exc


@contextlib.contextmanager
def kept_unmounted(store: Path) -> Iterator[None]:
    """Let nobody open a store for writing meanwhile.

    Raises:
        Failure: somebody has it open.
    """
    fd = os.open(store / "lock", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    except BlockingIOError as exc:
        raise _in_use(store) from exc
    finally:
        os.close(fd)


def _in_use(store: Path) -> Failure:
    return Failure(
        f"{store} is in use by {_holder(store)}, which does not answer at {SOCKET_NAME}; "
        "wait for it to end, then try again"
    )


def _holder(store: Path) -> str:
    """Name the process that holds a store's lock: proc_locks(5)."""
    status = (store / "lock").stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        match line.split():
            case [_, "FLOCK", _, "WRITE", pid, place, *_] if place == device:
                return f"process {pid}"
    return "another process"
