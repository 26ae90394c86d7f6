"""Signals that a program has got, and that the kernel does not deliver yet."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from modelfs.fs.host.pending_signals import ENDING, is_ending, process_of

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


def test_a_name_that_is_cut_inside_a_letter(tmp_path: Path) -> None:
    """A program is looked at whatever its name is: the kernel cuts it after 15 bytes."""
    name = shutil.copy(shutil.which("sleep") or "", tmp_path / "записьмодели")
    with subprocess.Popen([name, "60"]) as program:
        while not Path(f"/proc/{program.pid}/comm").read_bytes().startswith("за".encode()):
            os.sched_yield()
        program.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WNOWAIT)
        assert process_of(program.pid) == program.pid
        assert not is_ending(program.pid)
        program.terminate()
        assert is_ending(program.pid)
        program.kill()


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


CATCH: Final = """
import signal, sys
signal.signal(getattr(signal, sys.argv[1]), lambda *_: None)
print("ready", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT", "SIGINT"])
def test_a_signal_that_is_caught(name: str) -> None:
    """It waits, as on a disk; only Ctrl-C interrupts."""
    command = [sys.executable, "-c", CATCH, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == b"ready\n"
            program.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WNOWAIT)
            program.send_signal(getattr(signal, name))
            assert is_ending(program.pid) == (name == "SIGINT")
        finally:
            program.kill()


def test_an_unknown_program() -> None:
    """A process that is gone, or cannot be seen from here, is not ending."""
    program = subprocess.Popen(["true"])
    program.wait(10)
    assert not is_ending(program.pid)
    assert process_of(program.pid) == program.pid


def test_the_process_of_a_thread() -> None:
    """A thread belongs to its process, and so does the first one, which has the same number."""
    numbers: list[int] = []
    thread = threading.Thread(target=lambda: numbers.append(process_of(threading.get_native_id())))
    thread.start()
    thread.join()
    assert thread.native_id != os.getpid()
    assert numbers == [os.getpid()]
    assert process_of(os.getpid()) == os.getpid()
