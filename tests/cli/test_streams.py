"""Standard streams that are closed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_closed_streams_do_not_matter(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """A command works without standard streams, and no file of the store takes their numbers."""
    store = tmp_path / "store"
    redirections = " ".join(f"{number}>&-" for number in closed)
    for command in (f"mkfs {store}", f"stats {store}", f"fsck {store}"):
        script = f"{sys.executable} -m modelfs {command} {redirections}"
        done = subprocess.run(["sh", "-c", script], capture_output=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
    assert (store / "FORMAT").read_bytes().startswith(b"modelfs store")


def test_open_streams_stay(tmp_path: Path) -> None:
    """Streams that are open are left alone."""
    done = subprocess.run(
        [sys.executable, "-m", "modelfs", "--version"],
        capture_output=True,
        check=True,
        env=os.environ,
        timeout=60,
    )
    assert done.stdout.startswith(b"modelfs ")


def test_paths_that_are_not_utf8_are_printed(tmp_path: Path) -> None:
    """A store's path may have any bytes, and a command prints them as they are.

    In a command that it suggests they are a word of a shell.
    """
    store = os.fsencode(tmp_path) + b"/st\xffre"
    environ = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    word = b"$'" + os.fsencode(tmp_path) + b"/st\\xffre'"
    for command, shown in (("mkfs", {store, word}), ("stats", set[bytes]()), ("fsck", {word})):
        done = subprocess.run(
            [sys.executable, "-m", "modelfs", command, store],
            capture_output=True,
            check=True,
            env=environ,
            timeout=60,
        )
        assert done.stderr == b""
        assert {path for path in (store, word) if path in done.stdout} == shown
