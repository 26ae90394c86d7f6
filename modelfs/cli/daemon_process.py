"""The process of a mount's daemon, watched until it ends."""

import contextlib
import os
import select
from typing import Self

from modelfs.cli.client import connect
from modelfs.cli.failure import Failure
from modelfs.errors import ModelfsError
from modelfs.store.disk.directory import Directory
from modelfs.store.mounted import MountedStore


class DaemonProcess:
    """The process of a mount's daemon, if it can be found.

    Attributes:
        user: its user ID; None if the daemon does not answer at a control socket.
    """

    def __init__(
        self, store: Directory | None, mounted: MountedStore | None, *, trust: bool = False
    ) -> None:
        """Find the daemon by its control socket, or else by its description of the store.

        Args:
            store: the folder; None for a read-only mount, whose daemon has no control socket.
            mounted: the description; None if it is that of a user who is not to be believed.
            trust: as for `connect`.
        """
        self._fd: int | None = None  # a pidfd
        self.user: int | None = None
        if store is not None:
            with contextlib.suppress(OSError, Failure, ModelfsError):
                if (daemon := connect(store, trust=trust)) is not None:
                    with daemon:
                        self.user = daemon.user
                        self._fd = os.pidfd_open(daemon.pid) if daemon.pid else None
        if self._fd is None and mounted is not None:
            self._fd = _pidfd_of(mounted)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)

    @property
    def is_found(self) -> bool:
        """Whether the process was found, and so can be waited for."""
        return self._fd is not None

    def has_ended(self) -> bool:
        """Return whether the process has ended; False if it was not found."""
        return self._fd is not None and bool(select.select([self._fd], [], [], 0)[0])


def _pidfd_of(mounted: MountedStore) -> int | None:
    """Return a pidfd of the process that has the store's folder open as the daemon describes."""
    if mounted.process is None:
        return None
    with contextlib.suppress(OSError):
        fd = os.pidfd_open(mounted.process)
        if mounted.is_open_in_process():  # since the number may be that of another process here
            return fd
        os.close(fd)
    return None
