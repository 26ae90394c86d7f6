"""One workload on one file system: recorded once, then lost at many moments."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tools.mounting import modelfs, mounted
from tools.trust.crash.checking import problems_after
from tools.trust.crash.clients import Site
from tools.trust.crash.disk import DISK, FLUSH, STATEMENTS, WRITE, recorded
from tools.trust.crash.images import Images, Point, Record, choose
from tools.trust.crash.machine import loop_mounted, make_file_system
from tools.trust.crash.workloads import WORKLOADS, run

DISK_SIZE: Final = 1536 << 20
POINT_SECONDS: Final = 120
REPORTED_MAX: Final = 3  # problems of one point


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of file system and workload, and how to try it."""

    system: str
    workload: str
    points: int
    seed: int
    seconds: float
    folder: Path  # to work in; made and removed
    keep: Path | None  # for the images of failed points

    @property
    def name(self) -> str:
        return f"{self.system} {self.workload}"


@dataclass(slots=True)
class Outcome:
    """The result of a cell."""

    cell: Cell
    writes: int = 0
    flushes: int = 0
    promises: int = 0
    held: int = 0
    lost: dict[str, list[str]] = field(default_factory=dict)  # problems by point
    recording_seconds: float = 0.0
    seconds: float = 0.0


def try_losses(cell: Cell) -> Outcome:
    """Record the workload, then check the image of each loss."""
    cell.folder.mkdir()
    try:
        began = time.monotonic()
        record_workload(cell)
        _show_errors(cell)
        recording_seconds = time.monotonic() - began
        outcome = _try_points(cell)
    finally:
        shutil.rmtree(cell.folder, ignore_errors=True)
    outcome.recording_seconds = recording_seconds
    outcome.seconds = time.monotonic() - began
    return outcome


def record_workload(cell: Cell) -> None:
    """Make the files `record`, and `base`, the disk at the beginning of the record."""
    here = cell.folder
    image = here / "image"
    make_file_system(cell.system, image, DISK_SIZE)
    subprocess.run(["cp", "--sparse=always", image, here / "base"], check=True)
    with (
        recorded(image, here / "recorder", here / "record"),
        loop_mounted(cell.system, here / "recorder" / DISK, here / "disk"),
    ):
        _work(cell, here / "disk" / "store")
    image.unlink()


def _work(cell: Cell, store: Path) -> None:
    workload = WORKLOADS[cell.workload]
    statements = cell.folder / "recorder" / STATEMENTS
    site = Site(cell.folder / "mnt", store, statements, cell.seconds * workload.scale)
    modelfs("mkfs", store)
    with mounted(store, site.mountpoint, log=cell.folder / "daemon.log"):
        run(workload.setup, site, cell.seed)
        modelfs("sync", site.mountpoint)
        subprocess.run(["sync", "-f", store], check=True)
        _say(statements, "phase", "work")
        run(workload.clients, site, cell.seed)
        _say(statements, "phase", "umount")
        _say(statements, "ask", 0)
    _say(statements, "done", 0)


def _show_errors(cell: Cell) -> None:
    for line in (cell.folder / "daemon.log").read_text().splitlines():
        if " ERROR " in line:
            print(f"{cell.name}, the daemon: {line}", file=sys.stderr)


def _say(statements: Path, *statement: object) -> None:
    fd = os.open(statements, os.O_WRONLY)
    os.write(fd, json.dumps(statement).encode() + b"\n")
    os.close(fd)


def _try_points(cell: Cell) -> Outcome:
    record = Record(cell.folder / "record")
    outcome = Outcome(cell, record.count(WRITE), record.count(FLUSH))
    images = Images(record, cell.folder / "base", cell.seed)
    for point in choose(record, cell.points, cell.seed):
        image = cell.folder / "lost"
        images.make(point, image)
        problems = _look(cell, images, image)
        if problems:
            _report(cell, point, problems, image)
            outcome.lost[f"{point.after} {point.kind}"] = problems
        else:
            outcome.held += 1
    outcome.promises = images.ledger.promises
    record.close()
    return outcome


def _look(cell: Cell, images: Images, image: Path) -> list[str]:
    # A check changes the image. So if images are kept, a copy is checked.
    looked_at = image
    if cell.keep is not None:
        looked_at = image.with_name("looked at")
        subprocess.run(["cp", "--sparse=auto", image, looked_at], check=True)
    disk, mountpoint = cell.folder / "disk", cell.folder / "mnt"
    try:
        with loop_mounted(cell.system, looked_at, disk):
            return in_a_child(lambda: problems_after(disk / "store", mountpoint, images.ledger))
    except OSError as exc:
        return [str(exc)]


def _report(cell: Cell, point: Point, problems: list[str], image: Path) -> None:
    for problem in problems[:REPORTED_MAX]:
        print(f"{cell.name}, {point.kind} after {point.after}: {problem}", file=sys.stderr)
    if cell.keep is not None:
        cell.keep.mkdir(parents=True, exist_ok=True)
        kept = f"{cell.system}-{cell.workload}-{point.after}-{point.kind}.img"
        shutil.move(image, cell.keep / kept)


def in_a_child(look: Callable[[], list[str]]) -> list[str]:
    """Call `look` in a process of its own with a time limit, and return its result."""
    readable, writable = os.pipe()
    if not (child := os.fork()):
        _answer(look, writable)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        answer = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        os.killpg(child, signal.SIGKILL)
        return [f"the check ended with {code}"]
    problems: list[str] = json.loads(answer)
    return problems


def _answer(look: Callable[[], list[str]], writable: int) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(POINT_SECONDS)
        answer = json.dumps(look()).encode()
        with os.fdopen(writable, "wb") as pipe:
            pipe.write(answer)
        code = 0
    except BaseException as exc:
        print(f"check: {exc!r}", file=sys.stderr)
    finally:
        os._exit(code)
