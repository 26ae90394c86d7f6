"""Opening a store that no daemon answers for."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from modelfs.cli.failure import Failure
from modelfs.errors import StoreBusy
from modelfs.store.folder import CONTROL_SOCKET, lock
from modelfs.store.store import Store


def open_unmounted(store: Path) -> Store:
    """Open a store for writing that no daemon answered for.

    Raises:
        Failure: another process has it all the same.
    """
    try:
        return Store(store)
    except StoreBusy as exc:
        raise _in_use(exc) from exc


@contextlib.contextmanager
def kept_unmounted(store: Path) -> Iterator[None]:
    """Keep other processes from opening a store for writing.

    Raises:
        Failure: one has it open.
    """
    try:
        fd = lock(store, fcntl.LOCK_SH)
    except StoreBusy as exc:
        raise _in_use(exc) from exc
    try:
        yield
    finally:
        os.close(fd)


def _in_use(why: StoreBusy) -> Failure:
    return Failure(
        f"{why}, which does not answer at {CONTROL_SOCKET}; wait for it to end, then try again"
    )
