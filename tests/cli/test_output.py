"""Standard output: an error of the stream ends the command, and is reported once."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TextIO

import click
import pytest

from modelfs.cli.failure import Code, Failure
from modelfs.cli.output import ClosedPipe, replace_stdout

MUCH: Final = "line\n" * 100_000  # more than any buffer on the way

Replace = Callable[[int], TextIO]


@pytest.fixture
def replace(monkeypatch: pytest.MonkeyPatch) -> Iterator[Replace]:
    """Let a descriptor be standard output, replace the stream, and return the new one."""
    old: list[io.TextIOWrapper] = []

    def replace(fd: int) -> TextIO:
        old.append(io.TextIOWrapper(io.FileIO(fd, "wb", closefd=False), encoding="ascii"))
        monkeypatch.setattr(sys, "stdout", old[-1])
        replace_stdout()
        return sys.stdout

    yield replace
    for stream in old:
        stream.detach()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe; its ends may be closed by the test."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError as exc:
            assert exc.errno == errno.EBADF  # noqa: PT017 - the test has closed it


def test_text_arrives(replace: Replace, tmp_path: Path) -> None:
    """All text reaches the file, and the descriptor stays open when the stream is closed."""
    with (tmp_path / "output").open("wb", buffering=0) as file:
        stream = replace(file.fileno())
        stream.write(MUCH)
        stream.close()
        os.write(file.fileno(), b"end")
    assert (tmp_path / "output").read_text() == MUCH + "end"


def test_text_of_the_old_stream_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Text in the buffer of the old stream is written before that of the new one."""
    with (tmp_path / "output").open("w") as file:
        file.write("first, ")
        monkeypatch.setattr(sys, "stdout", file)
        replace_stdout()
        sys.stdout.write("second\n")
        sys.stdout.flush()
    assert (tmp_path / "output").read_text() == "first, second\n"


def test_encoding_and_its_errors_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The new stream encodes text as the old one did."""
    with (tmp_path / "output").open("w", encoding="ascii", errors="xmlcharrefreplace") as file:
        monkeypatch.setattr(sys, "stdout", file)
        replace_stdout()
        sys.stdout.write("caf\xe9\n")
        sys.stdout.flush()
    assert (tmp_path / "output").read_bytes() == b"caf&#233;\n"


def test_a_closed_stream_stays_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without standard output there is nothing to replace."""
    monkeypatch.setattr(sys, "stdout", None)
    replace_stdout()
    assert sys.stdout is None


@pytest.mark.parametrize("text", ["short\n", MUCH], ids=["at the end", "in between"])
def test_a_reader_that_ended(replace: Replace, pipe: tuple[int, int], text: str) -> None:
    """`ClosedPipe` is raised by the write or the flush that finds no reader, and then no more."""
    reading, writing = pipe
    os.close(reading)
    stream = replace(writing)
    with pytest.raises(ClosedPipe):
        click.echo(text)
    click.echo(text)
    stream.close()


@pytest.mark.parametrize("text", ["short\n", MUCH], ids=["at the end", "in between"])
def test_a_full_disk(replace: Replace, text: str) -> None:
    """The failure has the reason of the disk; later text is dropped without another one."""
    with Path("/dev/full").open("wb") as full:
        stream = replace(full.fileno())
        with pytest.raises(Failure, match=r"^write error: No space left on device$") as failure:
            click.echo(text)
        assert failure.value.code == Code.FAILED
        assert isinstance(failure.value.__cause__, OSError)
        click.echo(text)
        stream.close()


def test_a_slow_reader_that_does_not_block(replace: Replace, pipe: tuple[int, int]) -> None:
    """A pipe that another program has made non-blocking gets all text, when it has room again."""
    reading, writing = pipe
    os.set_blocking(writing, False)
    stream = replace(writing)

    def read() -> bytes:
        with os.fdopen(os.dup(reading), "rb") as file:
            return file.read()

    with ThreadPoolExecutor(1) as pool:
        text = pool.submit(read)
        stream.write(MUCH)
        stream.close()
        os.close(writing)
        assert text.result().decode() == MUCH


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_gets_each_line_at_once(
    replace: Replace, pipe: tuple[int, int], is_terminal: bool
) -> None:
    """A line reaches a terminal when it ends; a pipe gets it with the others."""
    reading, writing = os.openpty() if is_terminal else pipe
    os.set_blocking(reading, False)
    stream = replace(writing)
    stream.write("line\n")
    if is_terminal:
        assert os.read(reading, 100) == b"line\r\n"
        stream.close()
        for end in (reading, writing):
            os.close(end)
    else:
        with pytest.raises(BlockingIOError):
            os.read(reading, 100)
        stream.close()
