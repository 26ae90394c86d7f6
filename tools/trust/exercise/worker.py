"""One process of the exerciser, and the moments at which all of them pause."""

import enum
import itertools
import signal
import subprocess
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from tools.mounting import MODELFS, Failed
from tools.trust.exercise.draw import Draw
from tools.trust.exercise.files import Files, Wrong
from tools.trust.exercise.operations import WEIGHTS

SHARED_FILES: Final = 2
SHARED_SIZE: Final = 3_000_000
PART: Final = 200_003  # no multiple of a page: neighbours share one

# The operations of a process between two syncs, and between two collections, while all work on.
SYNC_EVERY: Final = 1500
COLLECT_EVERY: Final = 4000


class Pause(enum.Enum):
    """An operation on the whole mount, while all processes pause."""

    DROP_CACHES = "drop caches"
    SYNC = "sync, drop caches"
    COLLECT = "collect"
    REMOUNT = "remount"


@dataclass(frozen=True, slots=True)
class Work:
    """The task of one process."""

    top: Path  # of all processes
    number: int
    processes: int
    seed: int
    operations: int
    pause_every: int
    file_count: int
    is_mount: bool  # whether there is anything to sync, collect and mount again

    def pauses(self) -> Iterator[Pause]:
        """Yield the pauses, the same ones for every process. The last is a remount."""
        draw = Draw(f"{self.seed} pauses")
        last = -(-self.operations // self.pause_every)
        for number in range(1, last + 1):
            pause = draw.weighted([*Pause], (4, 3, 1, 2))
            yield Pause.REMOUNT if number == last else pause


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a process."""

    counts: Counter[str]
    failure: str = ""


def work(task: Work, pipe: Connection) -> None:
    """Do the operations; report each pause, and the end, to the coordinator."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the coordinator ends this process
    worker = Worker(task, pipe)
    try:
        worker.run()
        report = Report(worker.counts)
    except Wrong as exc:
        report = Report(worker.counts, worker.explain(str(exc)))
    except (OSError, Failed):
        report = Report(worker.counts, worker.explain(traceback.format_exc()))
    pipe.send(report)


class Worker:
    """Does operations and pauses."""

    def __init__(self, task: Work, pipe: Connection) -> None:
        self.counts: Counter[str] = Counter()
        self._task = task
        self._pipe = pipe
        self._draw = Draw(f"{task.seed} process {task.number}")
        self._files = Files(task.top / f"{task.number}", self._draw, task.file_count)
        self._background: subprocess.Popen[bytes] | None = None
        for number in range(SHARED_FILES):
            starts = range(task.number * PART, SHARED_SIZE, task.processes * PART)
            parts = [(start, min(start + PART, SHARED_SIZE)) for start in starts]
            self._files.share(task.top / f"shared-{number}", parts)

    def run(self) -> None:
        names = list(WEIGHTS)
        weights = list(itertools.accumulate(WEIGHTS.values()))
        pauses = self._task.pauses()
        for number in range(1, self._task.operations + 1):
            self._files.operation = number
            operation = names[self._draw.position(weights)]
            operation(self._files)
            self._files.tidy()
            self.counts[operation.__name__] += 1
            self._command_now_and_then(number)
            if number % self._task.pause_every == 0 or number == self._task.operations:
                self._pause(next(pauses))
        self._files.close_all()

    def explain(self, what: str) -> str:
        """Return the error, with the last operations on the file."""
        task, file = self._task, self._files.touched
        lines = [f"process {task.number}, operation {self._files.operation}: {what}"]
        if file is not None:
            names = ", ".join(sorted(file.names)) or "no name"
            lines += [f"file {file.number} ({names}), {file.content.size} bytes; operations:"]
            lines += [f"  {line}" for line in file.journal]
        return "\n".join(lines)

    def _pause(self, pause: Pause) -> None:
        self._end_command()
        if pause is Pause.REMOUNT and self._task.is_mount:
            self._files.close_all()
        self._pipe.send(pause)
        self._pipe.recv()
        self._files.check_all()

    # -- commands in the background

    def _command_now_and_then(self, number: int) -> None:
        if self._task.is_mount and number % SYNC_EVERY == SYNC_EVERY // 2:
            self._command("sync")
        if self._task.is_mount and number % COLLECT_EVERY == COLLECT_EVERY // 2:
            self._command("gc")

    def _command(self, word: str) -> None:
        self._end_command()
        self._background = subprocess.Popen(
            [*MODELFS, word, self._task.top], stdout=subprocess.DEVNULL
        )

    def _end_command(self) -> None:
        if self._background is not None and (code := self._background.wait()) != 0:
            raise Failed(f"modelfs {self._background.args!r} ended with {code}")
        self._background = None
