"""The destinations of log lines."""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Final

from modelfs.cli.escape import plain

# When the daemon's log is longer than this, a new one is begun, and the old one is kept once.
LOG_MAX: Final = 1 << 20
FULL: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# The journal adds the time itself.
FOR_JOURNAL: Final = "%(levelname)s %(name)s: %(message)s"


class Lines(logging.Formatter):
    """Formats each record as one line, whose names of files a terminal does not obey."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        return plain(super().formatMessage(record))


def of_command() -> None:
    """Send a command's warnings and errors to stderr, in the format of its own errors."""
    _send_to(logging.StreamHandler(sys.stderr), "modelfs: %(message)s", logging.WARNING)


def of_foreground_daemon() -> None:
    """Send the log of a daemon in the foreground to stderr."""
    line = FOR_JOURNAL if "JOURNAL_STREAM" in os.environ else FULL
    _send_to(logging.StreamHandler(sys.stderr), line, logging.INFO)


def of_background_daemon(path: Path) -> int:
    """Send the log of a daemon in the background to a file; drop it if that is not writable.

    Returns:
        A descriptor of the file, which the caller owns; -1 if it is not writable.
    """
    handler: logging.Handler = logging.NullHandler()
    fd = -1
    with contextlib.suppress(OSError):
        if path.exists() and path.stat().st_size > LOG_MAX:
            path.replace(path.with_suffix(".log.1"))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    _send_to(handler, FULL, logging.INFO)
    return fd


def _send_to(handler: logging.Handler, line: str, level: int) -> None:
    handler.setFormatter(Lines(line))
    handler.set_name("modelfs")
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.get_name() == "modelfs"]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    # Other libraries, such as trio, only log warnings.
    logging.getLogger("modelfs").setLevel(level)
