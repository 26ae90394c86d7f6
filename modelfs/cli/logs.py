"""The destinations of log lines."""

import logging
import os
import sys
from typing import Final

from modelfs.cli.escape import plain
from modelfs.cli.repeated_lines import Condensed

FULL: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# The journal adds the time itself.
FOR_JOURNAL: Final = "%(levelname)s %(name)s: %(message)s"


class Lines(logging.Formatter):
    """Formats each record as one line, whose names of files a terminal does not obey."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        return plain(super().formatMessage(record))


def of_command() -> None:
    """Send a command's warnings and errors to stderr, in the format of its own errors."""
    send_to(logging.StreamHandler(sys.stderr), "modelfs: %(message)s", logging.WARNING)


def of_foreground_daemon() -> None:
    """Send the log of a daemon in the foreground to stderr."""
    line = FOR_JOURNAL if "JOURNAL_STREAM" in os.environ else FULL
    send_to(Condensed(logging.StreamHandler(sys.stderr)), line, logging.INFO)


def send_to(handler: logging.Handler, line: str, level: int) -> None:
    """Send the records of a level and above to one handler, and to no other of modelfs."""
    handler.setFormatter(Lines(line))
    handler.set_name("modelfs")
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.get_name() == "modelfs"]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    # Other libraries, such as trio, only log warnings.
    logging.getLogger("modelfs").setLevel(level)
