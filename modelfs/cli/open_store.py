"""Access to a store from a command: in the place of its daemon, or beside it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import Final

from modelfs.cli import client
from modelfs.cli.another_pid import continue_in_child
from modelfs.cli.failure import Failure
from modelfs.cli.places import find_mount_point
from modelfs.errors import SamePid, StoreBusy
from modelfs.shell_word import shell_word
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import CONTROL_SOCKET, lock, open_folder
from modelfs.store.store import Store

# Tries to get another PID.
CHILDREN_MAX: Final = 8


def open_unmounted(store: Directory, *, trust: bool) -> Store:
    """Open a store for writing, after `client.connect` found no daemon.

    Raises:
        Failure: another process has the store open, such as the daemon of a read-only mount, which
            has no control socket.
    """
    try:
        return Store(store, trust=trust)
    except StoreBusy as exc:
        raise _locked(store, exc) from exc


def open_for_reading(store: Directory, *, trust: bool) -> Store:
    """Open a store as of its last commit. This may continue in a child: see `another_pid`.

    Raises:
        SamePid: processes in other containers have the PIDs of this one and of its children.
    """
    for _ in range(CHILDREN_MAX):
        with contextlib.suppress(SamePid):
            return Store(store, read_only=True, trust=trust)
        with contextlib.suppress(StoreBusy):
            # The others read: it may be locked against writers.
            return Store(store, read_only=True, exclude_writers=True, trust=trust)
        continue_in_child()
    return Store(store, read_only=True, trust=trust)


@contextlib.contextmanager
def pinned(store: Directory, *, trust: bool) -> Iterator[None]:
    """Keep the files of the last commit in place, by way of the daemon or by the store's lock.

    Raises:
        Failure: a process has the store open for writing, and does not answer as its daemon, or
            this user may not use the daemon.
    """
    try:
        daemon = client.connect(store, trust=trust)
    except client.Refused as exc:
        raise Failure(
            f"{exc}; only the daemon can keep its files in place during a check: check as one of "
            "them, or unmount the store first"
        ) from exc
    if daemon is not None:
        with daemon:
            daemon.ask("hold")
            yield
        return
    try:
        held = lock(open_folder(store, read_only=True, trust=trust), fcntl.LOCK_SH)
    except StoreBusy as exc:
        raise _locked(store, exc) from exc
    with held:
        yield


def _locked(store: Directory, exc: StoreBusy) -> Failure:
    mount_point = find_mount_point(store.identity)
    if mount_point is not None and os.statvfs(mount_point).f_flag & os.ST_RDONLY:
        return Failure(
            f"{exc}, which has it mounted read-only; unmount it with "
            f"`modelfs umount {shell_word(mount_point)}`, and mount it without --read-only"
        )
    return Failure(
        f"{exc}, which does not answer at {CONTROL_SOCKET}; wait for it to end, then try again"
    )
