"""The command as a whole: help, exit codes and errors."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from modelfs.cli.commands import sync
from modelfs.cli.main import COMMANDS
from tests.support.fake_daemon import Call, Fake
from tests.support.mounts import DEADLINE, MODELFS, wait_until

# Slow to load, and not needed for `--version`.
HEAVY = {"rich", "lmdb", "numpy", "zstandard", "trio", "pyfuse3", "modelfs.store"}
FUSE = {"trio", "pyfuse3", "modelfs.fs.daemon"}
NAME = "a\nb\x1b[2J"


def test_version(call: Call) -> None:
    """`--version` names the program."""
    done = call("--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("modelfs ")


def test_help(call: Call) -> None:
    """`--help` lists every command and the exit codes."""
    done = call("--help")
    assert done.code == 0
    assert all(f"  {name} " in done.out for name in COMMANDS)
    assert "Exit codes" in done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each(call: Call, command: str) -> None:
    """Every command explains itself and each of its options."""
    done = call(command, "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: modelfs {command} ")
    options = done.out.partition("Options:\n")[2]
    assert all(len(line.split("  ")) > 1 for line in options.splitlines() if "--" in line)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["frobnicate"], "No such command 'frobnicate'; see `modelfs --help`"),
        (["mkfs"], "Missing argument 'STORE'; see `modelfs mkfs --help`"),
        (["stats", "a", "b"], "Got unexpected extra argument (b); see `modelfs stats --help`"),
        (["mount", "a", "b", "--cache-size", "big"], "'big' is not a size such as 256MiB"),
    ],
)
def test_wrong_usage(call: Call, arguments: list[str], says: str) -> None:
    """Wrong usage ends with 2 and names the help to read."""
    done = call(*arguments)
    assert done.code == 2
    assert says in done.error


@pytest.mark.parametrize("arguments", [["stats", NAME], ["inspect", NAME], [NAME]])
def test_names_in_errors(call: Call, arguments: list[str]) -> None:
    """A name in an error is escaped, so that it does not control the terminal."""
    error = call(*arguments).error
    assert "\x1b" not in error
    assert "\\x1b[2J" in error


def test_a_bug_is_one_line(call: Call, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug is one line, too; MODELFS_DEBUG=1 shows its traceback."""

    def broken(place: Path) -> Path:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr(sync, "find_store", broken)
    assert "bug: ZeroDivisionError: a b; set MODELFS_DEBUG=1" in call("sync", empty).error
    monkeypatch.setenv("MODELFS_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        call("sync", empty)


def test_interrupted(fake: Fake, empty: Path) -> None:
    """Ctrl-C ends a command with 130, and one line."""
    daemon = fake(sync=[{"progress": {"done": 0, "total": 1}}])
    daemon.lasting.add("sync")
    command = subprocess.Popen([*MODELFS, "sync", empty], stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: daemon.requests)
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=DEADLINE)
    finally:
        command.kill()
        command.wait(DEADLINE)
    assert command.returncode == 130
    assert err == "modelfs: interrupted\n"


def test_reader_goes_away(family: Path) -> None:
    """A pipe that is closed early, as by head(1), ends a command as it ends other tools."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*MODELFS, "inspect", "--store", family, "base.onnx"],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=DEADLINE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["stats"], 1), (["inspect", "base.onnx", "--store"], 1), (["fsck"], 8)],
)
@pytest.mark.parametrize("format_", [[], ["--json"]])
def test_output_that_cannot_be_written(
    family: Path, arguments: list[str], format_: list[str], code: int
) -> None:
    """A full disk under the output is one message, and exit code 1; 8 from fsck, as fsck(8)."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*MODELFS, *arguments, family, *format_],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=DEADLINE,
            check=False,
        )
    assert done.returncode == code
    assert done.stderr == b"modelfs: write error: No space left on device\n"


def _loaded(source: str, *arguments: str | Path) -> set[str]:
    source = textwrap.dedent(source) + "\nprint(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", source, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True)
    return set(done.stderr.split())


def test_version_loads_little() -> None:
    """`--version` loads no library that only some commands need."""
    source = "import sys; from modelfs.cli.main import run; run(['--version'])"
    assert not _loaded(source) & HEAVY


def test_only_mounting_needs_fuse(empty: Path) -> None:
    """Every command but `mount` works without FUSE, and the help of all of them does."""
    source = """
        import sys
        from modelfs.cli.main import COMMANDS, run
        for command in COMMANDS:
            run([command, "--help"])
        for command in ("stats", "sync", "gc", "fsck"):
            assert run([command, sys.argv[1]]) == 0
    """
    assert not _loaded(source, empty) & FUSE
