"""Ctrl-C while a command is loaded."""

import signal
import subprocess
import sys
from typing import Final

import pytest

from tests.support.mounts import DEADLINE

# Loads a command, and gets SIGINT from itself when the first of the command's modules is imported.
LOAD: Final = """
import os, signal, sys
from modelfs.cli import start

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "modelfs.cli.main":
            os.kill(os.getpid(), signal.SIGINT)

sys.argv = ["modelfs", "--version"]
sys.meta_path.insert(0, Finder())
{before}
start.{command}()
"""


@pytest.mark.parametrize("command", ["main", "mount_helper"])
def test_ctrl_c_while_a_command_is_loaded(command: str) -> None:
    """It ends the process with 130, and without output."""
    done = _run(LOAD.format(command=command, before=""))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_before_a_command_can_catch_it() -> None:
    """It ends the process in the same way, while the streams are made ready."""
    done = _run("""
import os, signal, sys
from modelfs.cli import main, start

main.replace_stdout = lambda: os.kill(os.getpid(), signal.SIGINT)
sys.argv = ["modelfs", "--version"]
start.main()
""")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    """A shell script starts commands in the background like that."""
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    done = _run(LOAD.format(command="main", before=ignore))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("modelfs ")


def _run(source: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", source]
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
    finally:
        signal.signal(signal.SIGINT, handler)
