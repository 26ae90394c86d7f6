"""The destinations of log lines."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.cli import logs

log = logging.getLogger("modelfs.test")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Restore the handlers and the level after each test."""
    root, package = logging.getLogger(), logging.getLogger("modelfs")
    handlers, level = root.handlers[:], package.level
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()
    package.setLevel(level)


def test_of_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings of a command look like its errors, and lesser records are not shown."""
    logs.of_command()
    log.info("quiet")
    log.warning("loud")
    assert capsys.readouterr() == ("", "modelfs: loud\n")


def test_names_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A name of a file cannot begin a line of its own, nor control the terminal."""
    logs.of_command()
    log.warning("%s is gone", "a\nmodelfs: all is well\x1b[2J\udcff")
    line = "modelfs: a\\nmodelfs: all is well\\x1b[2J\\xff is gone\n"
    assert capsys.readouterr().err == line


def test_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Only the last destination gets lines."""
    logs.of_command()
    logs.of_foreground_daemon()
    log.warning("loud")
    assert capsys.readouterr().err.count("loud") == 1


def test_of_daemon(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon's lines have a time, unless the journal adds it."""
    logs.of_foreground_daemon()
    log.info("mounted")
    assert capsys.readouterr().err.startswith("20")
    monkeypatch.setenv("JOURNAL_STREAM", "8:1234")
    logs.of_foreground_daemon()
    log.info("mounted")
    assert capsys.readouterr().err == "INFO modelfs.test: mounted\n"


def test_long_log_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long log is kept once, and a new one is begun; only its owner can read it."""
    monkeypatch.setattr(logs, "LOG_MAX", 100)
    path = tmp_path / "daemon.log"
    for text in ("a" * 200, "b", "c" * 200, "d"):
        os.close(logs.of_background_daemon(path))
        log.info(text)
    assert "c" * 200 in (tmp_path / "daemon.log.1").read_text()
    assert path.read_text().endswith("d\n")
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_file(tmp_path: Path) -> None:
    """Without a writable log file the daemon runs without a log."""
    assert logs.of_background_daemon(tmp_path / "nowhere" / "daemon.log") == -1
    log.info("lost")
