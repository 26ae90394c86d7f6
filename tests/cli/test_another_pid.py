"""A command that goes on in a child, and its parent that waits for it."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from modelfs.cli.another_pid import FORWARDED, OF_KEYS

# Prints the names of signals, and ends at SIGTERM.
COMMAND = """
import os, signal, sys
from modelfs.cli.another_pid import FORWARDED, continue_in_child
continue_in_child()
signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
signal.alarm(20)  # a test that fails does not wait for ever
print("ready", os.getppid(), flush=True)
while True:
    number = signal.sigwait(FORWARDED)
    print(number.name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(7)
"""


@pytest.fixture
def command() -> Iterator[subprocess.Popen[str]]:
    """A command whose child waits for signals."""
    started = subprocess.Popen([sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, text=True)
    with started:
        assert started.stdout is not None
        assert started.stdout.readline() == f"ready {started.pid}\n"
        yield started
        started.kill()


def test_signals_are_forwarded(command: subprocess.Popen[str]) -> None:
    """The child gets each signal that a program sends to the parent, and its code is that of both.

    A container's engine sends SIGINT to the first process only.
    """
    assert command.stdout is not None
    for number in sorted(FORWARDED - {signal.SIGTERM}):
        command.send_signal(number)
        assert command.stdout.readline() == f"{signal.Signals(number).name}\n"
    command.send_signal(signal.SIGTERM)
    assert command.stdout.readline() == "SIGTERM\n"
    assert command.wait(20) == 7


def test_a_key_is_not_forwarded() -> None:
    """The child gets the signal of a key once: the terminal sends it to both processes."""
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", COMMAND])
    with open(terminal, "rb", buffering=0) as output:
        received = b""
        while b"ready" not in received:
            received += output.read(1000)
        for key, name in ((b"\x03", b"SIGINT"), (b"\x1c", b"SIGQUIT")):  # Ctrl-C and Ctrl-\\
            os.write(terminal, key)
            while name not in received:
                received += output.read(1000)
        os.kill(pid, signal.SIGUSR1)  # the parent gets it after them
        while b"SIGUSR1" not in received:
            received += output.read(1000)
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert [received.count(number.name.encode()) for number in sorted(OF_KEYS)] == [1, 1]


def test_a_signal_that_ends_the_child_is_its_code() -> None:
    """The parent of a child that a signal has ended ends with 128 and its number, as a shell."""
    script = """
import os, signal
from modelfs.cli.another_pid import continue_in_child
continue_in_child()
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script], timeout=20, check=False)
    assert ended.returncode == 128 + signal.SIGKILL
