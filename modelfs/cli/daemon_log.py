"""The log of a daemon in the background: a file in the folder of its store."""

import contextlib
import io
import logging
import os
import sys
from pathlib import Path
from typing import Final

from modelfs.cli.logs import FULL, send_to
from modelfs.store.directory import Directory
from modelfs.store.folder import open_folder

LOG_NAME: Final = "daemon.log"
OLD_LOG_NAME: Final = "daemon.log.1"
# When the log is longer than this, a new one is begun, and the old one is kept once.
LOG_MAX: Final = 1 << 20
LOG_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def begin(store: Path, *, trust: bool = False) -> int:
    """Send the log of a daemon in the background to a file in its store's folder.

    The log is dropped if this process has no permission to write it, or if it only reads the store
    of another user.

    Returns:
        A descriptor of the file, which the caller owns; -1 if the log is dropped.

    Raises:
        StoreNotTrusted: another user may be able to change the store, or the log is a link.
    """
    send_to(logging.NullHandler(), FULL, logging.INFO)
    folder = open_folder(store, read_only=True, trust=trust)
    if not folder.is_own:
        return -1
    with contextlib.suppress(OSError):
        if folder.exists(LOG_NAME) and folder.status(LOG_NAME).st_size > LOG_MAX:
            folder.rename(LOG_NAME, OLD_LOG_NAME)
        fd = folder.open(LOG_NAME, LOG_FLAGS)
        send_to(_LogFile(folder), FULL, logging.INFO)
        return fd
    return -1


class _LogFile(logging.FileHandler):
    """Appends to the log in a store's folder."""

    def __init__(self, folder: Directory) -> None:
        self._folder = folder
        super().__init__(folder.path / LOG_NAME, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> io.TextIOWrapper:
        fd = self._folder.open(LOG_NAME, LOG_FLAGS)
        return io.TextIOWrapper(open(fd, "ab"), encoding=self.encoding, errors=self.errors)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drop a line for which the disk has no room. Its traceback would go to the same file."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
