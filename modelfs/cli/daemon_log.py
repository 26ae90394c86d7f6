"""The log of a daemon in the background: a file in the folder of its store."""

import contextlib
import io
import logging
import os
from pathlib import Path
from typing import Final

from modelfs.cli.logs import FULL, send_to
from modelfs.cli.repeated_lines import Condensed
from modelfs.errors import ModelfsError
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import open_folder

LOG_NAME: Final = "daemon.log"
OLD_LOG_NAME: Final = "daemon.log.1"
# When the log is longer than this, it is emptied, and its end is kept once. Bytes.
LOG_MAX: Final = 1 << 20
LOG_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_APPEND
OLD_LOG_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL


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
    if not (folder.trust or folder.is_own):
        return -1
    with contextlib.suppress(OSError):
        fd = folder.open(LOG_NAME, LOG_FLAGS)
        send_to(Condensed(_LogFile(folder)), FULL, logging.INFO)
        return fd
    return -1


class _LogFile(logging.FileHandler):
    """Appends to the log in a store's folder, and keeps the log short.

    When the log is long, its end goes to the old log, and the file is emptied, not replaced:
    stderr is a descriptor of it, and other daemons have it open that only read the store.
    """

    def __init__(self, folder: Directory) -> None:
        self._folder = folder
        super().__init__(folder.path / LOG_NAME, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> io.TextIOWrapper:
        fd = self._folder.open(LOG_NAME, LOG_FLAGS)
        return io.TextIOWrapper(open(fd, "ab"), encoding=self.encoding, errors=self.errors)

    def emit(self, record: logging.LogRecord) -> None:
        if self.stream is not None:
            self._shorten(self.stream.fileno())
        super().emit(record)

    def _shorten(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            if (size := os.fstat(fd).st_size) > LOG_MAX:
                with contextlib.suppress(OSError, ModelfsError):  # a full disk: the lines are lost
                    self._folder.unlink(OLD_LOG_NAME)
                    with open(self._folder.open(OLD_LOG_NAME, OLD_LOG_FLAGS), "wb") as old:
                        old.write(os.pread(fd, LOG_MAX, size - LOG_MAX))
                os.ftruncate(fd, 0)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Drop a line that cannot be written: a report would go to stderr, which is the log."""
