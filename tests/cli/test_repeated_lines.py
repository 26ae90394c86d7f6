"""Log lines of one cause are condensed."""

import logging
import time

import pytest

from modelfs.cli.repeated_lines import CAUSES_MAX, PERIOD, Condensed


class Lines(logging.Handler):
    """Keeps the lines that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.closed = False

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def close(self) -> None:
        self.closed = True
        super().close()


class Log:
    """A log that is condensed, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.target = Lines()
        self.handler = Condensed(self.target)
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def __call__(self, message: str, *values: object, exc: Exception | None = None) -> None:
        info = None if exc is None else (type(exc), exc, None)
        record = logging.LogRecord("a", logging.ERROR, "file", 1, message, values, info)
        record.created = 0.0
        self.handler.handle(record)

    def new(self) -> list[str]:
        """Return the lines since the last call."""
        lines, self.target.lines = self.target.lines, []
        return lines


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    return Log(monkeypatch)


def test_one_line_a_minute(log: Log) -> None:
    """The first line comes at once, and the others are counted when the minute is over."""
    for number in range(1000):
        log("chunk %d is damaged", 7 if number else 8)
    assert log.new() == ["chunk 8 is damaged", "chunk 7 is damaged"]
    log.now = PERIOD
    log("another")
    assert log.new() == ["998 times more since 00:00:00: chunk 7 is damaged", "another"]
    log("chunk %d is damaged", 7)
    assert log.new() == ["chunk 7 is damaged"]


def test_a_single_repetition(log: Log) -> None:
    """It is counted in a word."""
    log("full")
    log("full")
    log.handler.close()
    assert log.new() == ["full", "once more since 00:00:00: full"]


def test_the_count_of_the_last_minute(log: Log) -> None:
    """At the end all counts come, and the other handler is closed."""
    for _ in range(3):
        log("full")
    log.new()
    log.handler.close()
    assert log.new() == ["2 times more since 00:00:00: full"]
    assert log.target.closed


def test_bugs_are_different_causes(log: Log) -> None:
    """The exception of a line is a part of its cause."""
    for exc in (KeyError("a"), KeyError("b"), KeyError("a")):
        log("bug", exc=exc)
    assert [line.splitlines()[-1] for line in log.new()] == ["KeyError: 'a'", "KeyError: 'b'"]


def test_many_causes(log: Log) -> None:
    """Beyond `CAUSES_MAX` they are one, in each minute: lines and memory are bounded."""
    for _ in range(2):
        for number in range(3 * CAUSES_MAX):
            log("chunk %d", number)
        assert len(log.new()) <= CAUSES_MAX + 2
        assert len(log.handler._seen) <= CAUSES_MAX + 1
        log.now += PERIOD
    log("last")
    assert any("other causes" in line for line in log.new())


def test_a_minute_of_each_cause(log: Log) -> None:
    """A minute begins with the first line of its cause."""
    log("one")
    log.now = PERIOD / 2
    log("two")
    log.now = PERIOD
    log("one")
    log("two")
    assert log.new() == ["one", "two", "one"]
