"""Access to a store whose control socket no daemon answers."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from modelfs.cli import client
from modelfs.cli.failure import Failure
from modelfs.errors import StoreBusy
from modelfs.store.folder import CONTROL_SOCKET, lock
from modelfs.store.store import Store


def open_unmounted(store: Path) -> Store:
    """Open a store for writing, after `client.connect` found no daemon.

    Raises:
        Failure: another process has the store open.
    """
    try:
        return Store(store)
    except StoreBusy as exc:
        raise _locked(exc) from exc


@contextlib.contextmanager
def pinned(store: Path) -> Iterator[None]:
    """Keep the files of the last commit in place, by way of the daemon or by the store's lock.

    Raises:
        Failure: a process has the store open for writing, and does not answer as its daemon.
    """
    if (daemon := client.connect(store)) is not None:
        with daemon:
            daemon.ask("hold")
            yield
        return
    try:
        fd = lock(store, fcntl.LOCK_SH)
    except StoreBusy as exc:
        raise _locked(exc) from exc
    try:
        yield
    finally:
        os.close(fd)


def _locked(exc: StoreBusy) -> Failure:
    return Failure(
        f"{exc}, which does not answer at {CONTROL_SOCKET}; wait for it to end, then try again"
    )
