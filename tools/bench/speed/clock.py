"""The clock: steps that are timed in a process of their own, with the CPU time of a daemon."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

from tools.mounting import Failed

FORK: Final = multiprocessing.get_context("fork")
TICKS: Final = os.sysconf("SC_CLK_TCK")  # in a second

Step = Callable[[], int | None]


class Lap(NamedTuple):
    """The times from the begin of the first step to the end of one."""

    seconds: float
    cpu: float  # seconds of the daemon


def laps(steps: Sequence[Step], amount: int, pid: int | None) -> list[Lap]:
    """Do steps one after the other, in a new process, whose memory is fresh.

    Args:
        steps: each returns how many bytes or calls it did, or nothing.
        amount: their right number.
        pid: the daemon; None if there is none.

    Raises:
        Failed: a step failed, or returned a wrong number.
    """
    receiver, sender = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_report, args=(sender, steps, pid))
    child.start()
    sender.close()
    try:
        problem, found = receiver.recv()
    except EOFError as exc:
        raise Failed("a measuring process ended without a result") from exc
    finally:
        child.join()
    if problem:
        raise Failed(problem)
    wrong = [done for _, done in found if done not in (None, amount)]
    if wrong:
        raise Failed(f"{wrong[0]:,} came back where {amount:,} were expected")
    return [lap for lap, _ in found]


def _report(sender: Connection, steps: Sequence[Step], pid: int | None) -> None:
    found: list[Any] = []
    problem = ""
    try:
        before, began = cpu_seconds(pid), time.perf_counter()
        for step in steps:
            done = step()
            seconds = time.perf_counter() - began
            found.append((Lap(seconds, cpu_seconds(pid) - before), done))
    except Exception:
        problem = traceback.format_exc()
    sender.send((problem, found))


def cpu_seconds(pid: int | None) -> float:
    """Return the CPU time of a process, that of ended threads included; 0 without a process."""
    if pid is None:
        return 0.0
    # pid (name) state ppid ...: a name may have spaces and brackets.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid: int) -> int:
    """Return the bytes of memory of a process, those of mapped files included."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))
