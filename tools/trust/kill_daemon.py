"""Does a store keep its promises when its daemon is killed, again and again?

    tools/run trust.kill_daemon [--kills N] [--seed N] [--folder DIR] [--keep DIR]

One store lives through all kills. Client processes write with and without fsync, rename over files,
remove them, write through mappings, empty files whose pages are mapped and dirty, write models that
share tensors, run `modelfs sync` and `modelfs gc`, and read; under this load, the daemon is killed
with SIGKILL at a random moment. The store is checked as it was left (`modelfs fsck --data`) and
mounted again, and all promises are checked: data that an fsync or a sync acknowledged is there; a
name that was renamed over has the old or the new file, whole. Every tenth mount is killed while it
recovers; every fifth is ended by SIGTERM or SIGHUP under load, in order and with exit code 0. The
daemon has to end within seconds, whatever ends it. Exits with 1 if a promise was broken.
"""

import argparse
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tools.mounting import Mount, modelfs
from tools.trust.crash.checking import findings
from tools.trust.crash.clients import Client, Site, start
from tools.trust.crash.promises import Ledger, of_seed, size_of, slice_of
from tools.trust.crash.workloads import (
    Work,
    collect,
    optimize,
    renew_family,
    renew_variants,
    replace_with_fsync,
    replace_without_fsync,
    run,
    save_in_place,
    save_mapped,
    save_models,
    save_with_fsync,
)

ENDED: Final = os.WEXITED | os.WNOHANG | os.WNOWAIT
LOAD_SECONDS: Final = (0.1, 2.0)  # before a kill
# A daemon has ended so long after a signal: it was killed, or has flushed and committed all writes.
KILLED_SECONDS: Final = 10.0
ENDED_SECONDS: Final = 60.0
# A client ends with the first error of the mount, or by a signal if that is a page of a mapping.
EXPECTED: Final = (1, -signal.SIGBUS)
KEPT: Final = [(f"{number}", of_seed(90_000 + number, 1 + number * 9_000)) for number in range(40)]


def write_kept(client: Client) -> None:
    for name, content in KEPT:
        client.write(name, content, durable=True)


def read_kept(client: Client) -> None:
    """Read files that no process changes; they have to be right at every moment."""
    while client.has_time:
        name, content = client.draw.choice(KEPT)
        if (client.folder / name).read_bytes() != slice_of(content, 0, size_of(content)):
            raise ValueError(f"{name} reads wrong")


CLIENTS: Final[dict[str, Work]] = {
    "fsync": save_with_fsync,
    "place": save_in_place,
    "mapped": save_mapped,
    "rename": replace_with_fsync,
    "careless": replace_without_fsync,
    "models": save_models,
    "variants": renew_variants,
    "gc": collect,
    "family": renew_family,
    "optimize": optimize,
    "kept": read_kept,
}


@dataclass(slots=True)
class Tally:
    """The results of all kills."""

    kills: int = 0
    during_sync: int = 0
    while_recovering: int = 0
    in_order: int = 0
    end_seconds: list[float] = field(default_factory=list)
    mount_seconds: list[float] = field(default_factory=list)
    promises: int = 0
    lost: list[str] = field(default_factory=list)


class Victim(Mount):
    """The mount that is killed, and the record of its clients' promises."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "store", folder / "mnt")
        self.record = folder / "statements"
        self.record.touch()
        modelfs("mkfs", self.store)

    def end(self, number: signal.Signals) -> tuple[float, str | None]:
        """End the daemon by a signal; return the seconds that took, and what is wrong with it."""
        assert self._daemon is not None, "not mounted"
        deadline = KILLED_SECONDS if number is signal.SIGKILL else ENDED_SECONDS
        began = time.monotonic()
        self._daemon.send_signal(number)
        try:
            code = self._daemon.wait(deadline)
        except subprocess.TimeoutExpired:
            return deadline, f"the daemon still runs {deadline:.0f} s after {number.name}"
        self._daemon = None
        wrong = None if number is signal.SIGKILL or not code else f"it ended with {code}"
        return time.monotonic() - began, wrong

    def keep(self, folder: Path) -> None:
        """Copy the store as it is now to `folder`, with the logs and the record of promises."""
        self.kill()
        self.clear()
        shutil.copytree(
            self.store.parent, folder, ignore=shutil.ignore_patterns("*.sock"), dirs_exist_ok=True
        )


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # below nohup(1), daemons would ignore it
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="modelfs-kill-", dir=options.folder) as folder:
        victim = Victim(Path(folder))
        try:
            tally = _kill_often(victim, options.kills, random.Random(options.seed))
            if tally.lost and options.keep is not None:
                victim.keep(options.keep)
        finally:
            victim.abandon()
    _show(tally, time.monotonic() - began)
    sys.exit(bool(tally.lost))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run trust.kill_daemon", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    parser.add_argument("--keep", type=Path, help="where to put the store if something was lost")
    return parser.parse_args()


def _kill_often(victim: Victim, kills: int, draw: random.Random) -> Tally:
    tally, ledger = Tally(), Ledger()
    victim.start()
    run({"kept": write_kept}, _site(victim), 0)
    with victim.record.open("rb") as record:
        for number in range(1, kills + 1):
            if tally.lost:
                break  # more work would hide the damage
            _kill_under_load(victim, number, draw, tally)
            for statement in record:
                ledger.add(statement)
            tally.during_sync += ledger.pending_syncs > 0
            if number % 10 == 0:
                _kill_while_recovering(victim, draw, tally)
            problems = _look(victim, ledger, tally)
            tally.lost += [f"kill {number}: {problem}" for problem in problems]
            for problem in problems:
                print(f"kill {number}: {problem}", file=sys.stderr)
    tally.promises = ledger.promises
    return tally


def _site(victim: Victim) -> Site:
    return Site(victim.path, victim.store, victim.record, seconds=3600)


def _kill_under_load(victim: Victim, number: int, draw: random.Random, tally: Tally) -> None:
    with victim.record.with_name("clients.log").open("ab") as log:
        clients = {
            start(work, _site(victim), name, number, log.fileno()): name
            for name, work in CLIENTS.items()
        }
    time.sleep(draw.uniform(*LOAD_SECONDS))
    early = [clients[pid] for pid in clients if os.waitid(os.P_PID, pid, ENDED) is not None]
    how = draw.choice((signal.SIGTERM, signal.SIGHUP)) if number % 5 == 0 else signal.SIGKILL
    seconds, wrong = victim.end(how)
    tally.end_seconds.append(seconds)
    if wrong is not None:
        tally.lost.append(f"kill {number}: {how.name}: {wrong}")
    for process, name in clients.items():
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code not in EXPECTED or name in early:
            tally.lost.append(f"kill {number}: client {name} ended with {code} before the kill")
    victim.clear()
    tally.kills += 1
    tally.in_order += how is not signal.SIGKILL


def _kill_while_recovering(victim: Victim, draw: random.Random, tally: Tally) -> None:
    victim.begin()
    time.sleep(draw.uniform(0.1, 0.8))
    victim.abandon()
    tally.kills += 1
    tally.while_recovering += 1


def _look(victim: Victim, ledger: Ledger, tally: Tally) -> list[str]:
    problems = findings(victim.store)
    tally.mount_seconds.append(victim.start())
    problems += ledger.problems(victim.path)
    ledger.restart_from(victim.path)
    fd = os.open(victim.path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)
    return problems


def _show(tally: Tally, seconds: float) -> None:
    table = Table("", "", title="a daemon killed under load", show_header=False)
    table.add_row("kills", f"{tally.kills}")
    table.add_row("of them while a sync was under way", f"{tally.during_sync}")
    table.add_row("of them while a mount recovered", f"{tally.while_recovering}")
    table.add_row("of them in order, by SIGTERM and SIGHUP", f"{tally.in_order}")
    slowest, middle = max(tally.end_seconds), statistics.median(tally.end_seconds)
    table.add_row("until the daemon has ended", f"{middle:.2f} s, at most {slowest:.2f} s")
    table.add_row("promises made", f"{tally.promises}")
    slowest, middle = max(tally.mount_seconds), statistics.median(tally.mount_seconds)
    table.add_row("until mounted again", f"{middle:.2f} s, at most {slowest:.2f} s")
    table.add_row("lost", f"{len(tally.lost)}")
    table.add_row("minutes", f"{seconds / 60:.1f}")
    Console().print(table)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
