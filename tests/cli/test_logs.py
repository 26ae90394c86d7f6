"""The destinations of log lines."""

import logging

import pytest

from modelfs.cli import logs

log = logging.getLogger("modelfs.test")


pytestmark = pytest.mark.usefixtures("logging_as_before")


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
