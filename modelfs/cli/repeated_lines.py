"""Log lines of one cause, condensed: the first at once, and a count of the others each minute.

A program that reads a damaged chunk again and again causes an error, and a line, for each read.
Four threads made 6.7 MB of lines in 40 s. So a daemon's log has a line of each cause and minute;
when the minute is over, the next line of any cause is preceded by the number of those left out. The
cause is the whole message, so each damaged chunk has lines of its own. More than `CAUSES_MAX`
causes in a minute are one cause.

Example. Chunk 7 is damaged and is read 9,000 times from 10:00:00 to 10:01:30::

    10:00:00 ERROR boundary: read: chunk 7: its stored bytes do not match their checksum
    10:01:00 ERROR boundary: 5999 times more since 10:00:00: read: chunk 7: its stored bytes ...
    10:01:00 ERROR boundary: read: chunk 7: its stored bytes do not match their checksum
"""

import logging
import time
from dataclasses import dataclass
from typing import Final

PERIOD: Final = 60.0  # seconds
CAUSES_MAX: Final = 200
_MORE: Final = "%s since %s: %s"
_OTHERS: Final = "other causes"

# Logger, level, message, and class and text of the exception.
Cause = tuple[str, int, str, str]


@dataclass(slots=True)
class _Seen:
    """The lines of a cause in its minute."""

    first: logging.LogRecord
    end: float  # of the minute, in monotonic seconds
    left_out: int = 0


class Condensed(logging.Handler):
    """Passes the lines of each cause on to another handler, the first of each minute."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._target = target
        self._seen: dict[Cause, _Seen] = {}  # the oldest first

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802 - the library's name
        self._target.setFormatter(fmt)

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        self._end_minutes(now)
        exception = record.exc_info[1] if record.exc_info else None
        cause: Cause = (record.name, record.levelno, record.getMessage(), repr(exception))
        if len(self._seen) >= CAUSES_MAX and cause not in self._seen:
            cause = ("", 0, "", "")
        if (seen := self._seen.get(cause)) is not None:
            seen.left_out += 1
            return
        self._seen[cause] = _Seen(record, now + PERIOD)
        self._target.handle(record)

    def _end_minutes(self, now: float) -> None:
        """Forget the causes whose minute is over, and pass on how many lines were left out."""
        for cause, seen in list(self._seen.items()):
            if seen.end > now:
                break
            del self._seen[cause]
            if seen.left_out:
                self._target.handle(_summary(cause, seen))

    def close(self) -> None:
        self._end_minutes(float("inf"))
        self._target.close()
        super().close()


def _summary(cause: Cause, seen: _Seen) -> logging.LogRecord:
    record = seen.first
    began = time.strftime("%H:%M:%S", time.localtime(record.created))
    message = cause[2] if cause[0] else _OTHERS
    more = "once more" if seen.left_out == 1 else f"{seen.left_out} times more"
    return logging.LogRecord(
        record.name,
        record.levelno,
        record.pathname,
        record.lineno,
        _MORE,
        (more, began, message),
        None,
    )
