"""Does a store keep its promises when the power fails?

    tools/run trust.power_loss [--fs ext4,xfs,btrfs] [--workload NAME,...] [--points N]

Records every write and flush that a real file system sends to its disk while a mounted store on it
is under load, from the first write to the end of `modelfs umount`. For each of many moments in that
record, rebuilds the disk as a loss of power may have left it (nothing since the last flush, all of
it, or a random part at 4 KiB), mounts that with the machine's own file system, and checks it:
`modelfs fsck --data`, a mount, every promise made by then, `modelfs fsck --data` again.

The moments are spread evenly over the phases of a workload: work, ingest, optimize, gc, umount. A
promise is an fsync that was answered, a `modelfs sync` or `umount` that returned, or a rename older
than eight seconds; a name that was renamed over has the old or the new file, whole. Needs root,
loop devices and FUSE. Exits with 1 if a promise was broken.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tools.trust.crash.losses import Cell, Outcome, try_losses
from tools.trust.crash.machine import PACKAGES, demand, scratch_inside
from tools.trust.crash.workloads import WORKLOADS


def main() -> None:
    options = _options()
    demand(options.fs)
    scratch = scratch_inside(options.folder)
    began = time.monotonic()
    outcomes = _try_all(_cells(options, scratch), options.jobs)
    _show(outcomes, time.monotonic() - began)
    sys.exit(any(outcome.lost for outcome in outcomes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run trust.power_loss", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--fs", type=_some_of(PACKAGES), default=list(PACKAGES))
    parser.add_argument("--workload", type=_some_of(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--points", type=int, default=100, help="for each file system and workload")
    parser.add_argument("--seconds", type=float, default=6.0, help="that a workload runs, about")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="tried at the same time")
    parser.add_argument("--folder", type=Path, help="to work in; default: memory, if there is room")
    parser.add_argument("--keep", type=Path, help="where to put the images of what was lost")
    return parser.parse_args()


def _some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
        return names

    return parse


def _cells(options: argparse.Namespace, scratch: Path) -> list[Cell]:
    return [
        Cell(
            system,
            workload,
            options.points,
            options.seed,
            options.seconds,
            scratch / f"{system}-{workload}",
            options.keep and options.keep.resolve(),
        )
        for workload in options.workload
        for system in options.fs
    ]


def _try_all(cells: list[Cell], jobs: int) -> list[Outcome]:
    outcomes: dict[str, Outcome] = {}
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        tried = [pool.submit(try_losses, cell) for cell in cells]
        for done in as_completed(tried):
            outcome = done.result()
            outcomes[outcome.cell.name] = outcome
            print(f"{outcome.cell.name}: {outcome.held} held, {len(outcome.lost)} lost", flush=True)
    return [outcomes[cell.name] for cell in cells]


def _show(outcomes: list[Outcome], seconds: float) -> None:
    table = Table("file system", "workload", title=f"power loss, {seconds / 60:.1f} minutes")
    for name in ("writes", "flushes", "promises", "points", "held", "lost", "s a point"):
        table.add_column(name, justify="right")
    for outcome in outcomes:
        points = outcome.held + len(outcome.lost)
        pace = (outcome.seconds - outcome.recording_seconds) / max(1, points)
        numbers = (
            outcome.writes,
            outcome.flushes,
            outcome.promises,
            points,
            outcome.held,
            len(outcome.lost),
        )
        cells = (f"{number:,}" for number in numbers)
        table.add_row(outcome.cell.system, outcome.cell.workload, *cells, f"{pace:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
