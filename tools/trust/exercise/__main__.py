"""Does a mount keep every byte, for any operations of programs, in any order?

    tools/run trust.exercise [--operations N] [--seed N] [--processes N] [--files N] [FOLDER]

Several processes read, write, map, truncate, rename, link and remove files at random, each with a
byte-exact model of its files, and compare all they read. Now and then all pause, and caches are
dropped, the store is synced or collected, or mounted again; then every file is compared. All this
is in a temporary store and mount, which is checked with fsck at the end, or inside FOLDER: a run on
another file system tests the exerciser.

The same options make the same calls in each process. On an error, prints it with the last calls on
that file, and exits with 1.
"""

import argparse
import itertools
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from tools.mounting import Failed, Mount, drop_kernel_caches, modelfs
from tools.trust.exercise.place import Folder, Place
from tools.trust.exercise.worker import SHARED_FILES, SHARED_SIZE, Pause, Report, Work, work

STUCK_SECONDS: Final = 600.0  # without a report of any process


def main() -> int:
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # after the cleanup
    start = time.monotonic()
    counts, failure = _exercise(options)
    for name, count in counts.most_common():
        print(f"{name:16} {count:>10,}")
    if failure:
        print(failure)
    print(
        f"{counts.total():,} operations in {time.monotonic() - start:,.0f} s, "
        f"seed {options.seed}, {options.processes} processes of {options.files} files: "
        + ("WRONG" if failure else "nothing wrong")
    )
    return 1 if failure else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run trust.exercise", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--operations", type=int, default=10_000, help="of all processes together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--files", type=int, default=8, help="names that each process has")
    parser.add_argument("--pause", type=int, default=500, help="operations from pause to pause")
    parser.add_argument("folder", type=Path, nargs="?", help="where to work instead of a new mount")
    return parser.parse_args()


def _exercise(options: argparse.Namespace) -> tuple[Counter[str], str]:
    """Return the counts of operations, and the error, empty if there was none."""
    top = Path(tempfile.mkdtemp(prefix="modelfs-exercise-", dir=options.folder))
    place: Place = Folder(top) if options.folder else Mount(top / "store", top / "mnt")
    team = Team(options, place)
    failure = ""
    try:
        if isinstance(place, Mount):
            modelfs("mkfs", place.store)
        place.start()
        team.run()
        place.finish()
    except Failed as exc:
        failure = f"{exc}\n{place.log()}"
    finally:
        team.end()
        place.abandon()
        shutil.rmtree(top)
    return team.counts, failure


class Team:
    """The processes, and their coordinator."""

    def __init__(self, options: argparse.Namespace, place: Place) -> None:
        self.counts: Counter[str] = Counter()
        self._options = options
        self._place = place
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []

    def run(self) -> None:
        """Let the processes do all operations.

        Raises:
            Failed: something is wrong with the files, a command or the daemon.
        """
        for number in range(SHARED_FILES):
            shared = self._place.path / f"shared-{number}"
            shared.touch()
            os.truncate(shared, SHARED_SIZE)
        for number in range(self._options.processes):
            self._start(number)
        step = self._options.pause * self._options.processes
        for done in itertools.count(step, step):
            if not isinstance(pause := self._receive_all(), Pause):
                return
            print(f"{min(done, self._options.operations):,}: {pause.value}", file=sys.stderr)
            self._do(pause)
            for pipe in self._pipes:
                pipe.send(None)

    def end(self) -> None:
        """End the processes that still run."""
        for process in self._processes:
            process.kill()
            process.join()

    def _start(self, number: int) -> None:
        options = self._options
        task = Work(
            top=self._place.path,
            number=number,
            processes=options.processes,
            seed=options.seed,
            operations=options.operations // options.processes,
            pause_every=options.pause,
            file_count=options.files,
            is_mount=isinstance(self._place, Mount),
        )
        ours, workers_end = multiprocessing.Pipe()
        process = multiprocessing.Process(target=work, args=(task, workers_end))
        process.start()
        workers_end.close()
        self._processes.append(process)
        self._pipes.append(ours)

    def _receive_all(self) -> Pause | Report:
        """Wait for a report of each process, all alike, and return one of them."""
        waiting = [*self._pipes]
        while True:
            ready = multiprocessing.connection.wait(waiting, STUCK_SECONDS)
            if not ready:
                raise Failed(f"a process is stuck: no report for {STUCK_SECONDS} s")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                waiting.remove(pipe)
                message = self._receive(pipe)
            if not waiting:
                return message

    def _receive(self, pipe: Connection) -> Pause | Report:
        try:
            message: Pause | Report = pipe.recv()
        except EOFError:
            raise Failed("a process died") from None
        if isinstance(message, Report):
            self.counts += message.counts
            if message.failure:
                raise Failed(message.failure)
        return message

    def _do(self, pause: Pause) -> None:
        match pause:
            case Pause.SYNC:
                self._place.sync()
            case Pause.COLLECT:
                self._place.collect()
            case Pause.REMOUNT:
                self._place.remount()
        drop_kernel_caches()


if __name__ == "__main__":
    sys.exit(main())
