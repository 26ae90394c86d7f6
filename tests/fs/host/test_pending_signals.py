"""Signals that a program has got, and that the kernel does not deliver yet."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from modelfs.fs.host.pending_signals import ENDING, is_ending

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def stopped() -> Iterator[Start]:
    """Starts a program and stops it: like one that waits for the mount, it takes no signal."""
    with ExitStack() as programs:

        def start(*options: str) -> "subprocess.Popen[bytes]":
            program = subprocess.Popen(["env", *options, "sleep", "60"], stdout=subprocess.PIPE)
            programs.enter_context(program)
            programs.callback(program.kill)
            wait_for_exec(program.pid)
            program.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WNOWAIT)
            return program

        yield start


def wait_for_exec(pid: int) -> None:
    """Wait until `env` has set the signals of a program, and the program runs."""
    while not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"):
        os.sched_yield()


@pytest.mark.parametrize("number", [one for one in ENDING if one != signal.SIGKILL])
def test_a_signal_that_ends_a_program(stopped: Start, number: signal.Signals) -> None:
    """Each signal that ends a program is seen before it is delivered."""
    program = stopped()
    assert not is_ending(program.pid)
    program.send_signal(number)
    assert is_ending(program.pid)


@pytest.mark.parametrize(
    ("option", "number"),
    [
        ("--ignore-signal=TERM", signal.SIGTERM),
        ("--block-signal=TERM", signal.SIGTERM),
        ("--default-signal=TERM", signal.SIGWINCH),
    ],
    ids=["ignored", "blocked", "another"],
)
def test_a_signal_that_ends_none(stopped: Start, option: str, number: signal.Signals) -> None:
    """A signal that the program ignores or has blocked, or that ends no program, is none."""
    program = stopped(option)
    program.send_signal(number)
    assert not is_ending(program.pid)
    program.send_signal(signal.SIGHUP)
    assert is_ending(program.pid)


def test_an_unknown_program() -> None:
    """A process that is gone, or cannot be seen from here, is not ending."""
    program = subprocess.Popen(["true"])
    program.wait(10)
    assert not is_ending(program.pid)
