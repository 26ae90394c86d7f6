"""Where log lines go: the one place that says so."""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Final

from modelfs.cli.escape import plain

# The daemon's log is begun anew when it is longer than this; the one before is kept.
LOG_MAX: Final = 1 << 20
FULL: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# The journal adds the time itself.
FOR_JOURNAL: Final = "%(levelname)s %(name)s: %(message)s"


class Lines(logging.Formatter):
    """Formats records whose names of files can neither begin a line nor command a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        return plain(super().formatMessage(record))


def of_command() -> None:
    """Let a command's warnings and errors be lines on stderr, like its own."""
    _send_to(logging.StreamHandler(sys.stderr), "modelfs: %(message)s", logging.WARNING)


def of_foreground_daemon() -> None:
    """Let a daemon in the foreground log to stderr."""
    line = FOR_JOURNAL if "JOURNAL_STREAM" in os.environ else FULL
    _send_to(logging.StreamHandler(sys.stderr), line, logging.INFO)


def of_background_daemon(path: Path) -> None:
    """Let a daemon in the background log to a file, or nowhere if it cannot be written."""
    handler: logging.Handler = logging.NullHandler()
    with contextlib.suppress(OSError):
        if path.exists() and path.stat().st_size > LOG_MAX:
            path.replace(path.with_suffix(".log.1"))
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    _send_to(handler, FULL, logging.INFO)


def _send_to(handler: logging.Handler, line: str, level: int) -> None:
    handler.setFormatter(Lines(line))
    handler.set_name("modelfs")
    root = logging.getLogger()
    for old in [each for each in root.handlers if each.get_name() == "modelfs"]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    # Of others' messages, such as trio's, warnings are enough.
    logging.getLogger("modelfs").setLevel(level)
