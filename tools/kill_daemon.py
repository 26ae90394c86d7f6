"""Does a store keep its promises when its daemon is killed, again and again?

    tools/kill_daemon.py [--kills N] [--seed N] [--folder DIR]

One store lives through all of it. Under the load of client processes that write with and without
fsync, rename over, remove, write models that share tensors, run `modelfs sync` and `modelfs gc`,
and read, the daemon is killed with SIGKILL at a random moment. The store is checked as it was left
(`modelfs fsck --data`) and mounted again, and all that was promised is read: what an fsync or a
sync acknowledged is there, a name renamed over is old or new, and whole. Every tenth mount is
killed while it recovers. Exits with 1 if anything was lost.
"""

import argparse
import os
import random
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

from crash.checking import findings
from crash.clients import MODELFS, Client, Site, modelfs, start
from crash.promises import Ledger, of_seed, size_of, slice_of
from crash.workloads import (
    Work,
    collect,
    renew_variants,
    replace_with_fsync,
    replace_without_fsync,
    run,
    save_in_place,
    save_models,
    save_with_fsync,
)

ENDED: Final = os.WEXITED | os.WNOHANG | os.WNOWAIT
LOAD_SECONDS: Final = (0.1, 2.0)  # before a kill
KEPT: Final = [(f"{number}", of_seed(90_000 + number, 1 + number * 9_000)) for number in range(40)]


def write_kept(client: Client) -> None:
    for name, content in KEPT:
        client.write(name, content, durable=True)


def read_kept(client: Client) -> None:
    """Reads files that nobody changes; they have to be right at every moment."""
    while client.has_time:
        name, content = client.draw.choice(KEPT)
        if (client.folder / name).read_bytes() != slice_of(content, 0, size_of(content)):
            raise ValueError(f"{name} reads wrong")


CLIENTS: Final[dict[str, Work]] = {
    "fsync": save_with_fsync,
    "place": save_in_place,
    "rename": replace_with_fsync,
    "careless": replace_without_fsync,
    "models": save_models,
    "variants": renew_variants,
    "gc": collect,
    "kept": read_kept,
}


@dataclass(slots=True)
class Tally:
    """What became of all kills."""

    kills: int = 0
    during_sync: int = 0
    while_recovering: int = 0
    mount_seconds: list[float] = field(default_factory=list)
    promises: int = 0
    lost: list[str] = field(default_factory=list)


class Victim:
    """A store, and the daemon that serves it until it is killed."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.mountpoint = folder / "mnt"
        self.record = folder / "statements"
        self.log = folder / "log"
        self.mountpoint.mkdir()
        self.record.touch()
        modelfs("mkfs", self.store)
        self._daemon: subprocess.Popen[bytes] | None = None

    def begin_mount(self) -> None:
        with self.log.open("ab") as log:
            self._daemon = subprocess.Popen(
                [*MODELFS, "mount", "--foreground", self.store, self.mountpoint], stderr=log
            )

    def mount(self) -> float:
        """Mount, and return after how many seconds the mount answered."""
        began = time.monotonic()
        self.begin_mount()
        while not self.mountpoint.is_mount():
            if self._daemon is None or self._daemon.poll() is not None:
                raise OSError(f"it does not mount: {self.log.read_text()[-2000:]}")
            time.sleep(0.005)
        return time.monotonic() - began

    def kill(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
        self._daemon = None

    def clear(self) -> None:
        """Remove the mount that a killed daemon left."""
        while f" {self.mountpoint} " in Path("/proc/self/mounts").read_text():
            subprocess.run(["fusermount3", "-u", "-z", self.mountpoint], check=True)


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="modelfs-kill-", dir=options.folder) as folder:
        victim = Victim(Path(folder))
        try:
            tally = _kill_often(victim, options.kills, random.Random(options.seed))
        finally:
            victim.kill()
            victim.clear()
    _show(tally, time.monotonic() - began)
    sys.exit(bool(tally.lost))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    return parser.parse_args()


def _kill_often(victim: Victim, kills: int, draw: random.Random) -> Tally:
    tally, ledger = Tally(), Ledger()
    victim.mount()
    run({"kept": write_kept}, _site(victim), 0)
    with victim.record.open("rb") as record:
        for number in range(1, kills + 1):
            _kill_under_load(victim, number, draw, tally)
            for statement in record:
                ledger.hear(statement)
            tally.during_sync += ledger.asked > 0
            if number % 10 == 0:
                _kill_while_recovering(victim, draw, tally)
            problems = _look(victim, ledger, tally)
            tally.lost += [f"kill {number}: {problem}" for problem in problems]
            for problem in problems:
                print(f"kill {number}: {problem}", file=sys.stderr)
    tally.promises = ledger.promises
    return tally


def _site(victim: Victim) -> Site:
    return Site(victim.mountpoint, victim.store, victim.record, seconds=3600)


def _kill_under_load(victim: Victim, number: int, draw: random.Random, tally: Tally) -> None:
    with victim.log.open("ab") as log:
        clients = {
            start(work, _site(victim), name, number, log.fileno()): name
            for name, work in CLIENTS.items()
        }
    time.sleep(draw.uniform(*LOAD_SECONDS))
    early = [clients[each] for each in clients if os.waitid(os.P_PID, each, ENDED) is not None]
    victim.kill()
    for process, name in clients.items():
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code != 1 or name in early:
            tally.lost.append(f"kill {number}: client {name} ended with {code} before the kill")
    victim.clear()
    tally.kills += 1


def _kill_while_recovering(victim: Victim, draw: random.Random, tally: Tally) -> None:
    victim.begin_mount()
    time.sleep(draw.uniform(0.1, 0.8))
    victim.kill()
    victim.clear()
    tally.kills += 1
    tally.while_recovering += 1


def _look(victim: Victim, ledger: Ledger, tally: Tally) -> list[str]:
    problems = findings(victim.store)
    tally.mount_seconds.append(victim.mount())
    problems += ledger.problems(victim.mountpoint)
    ledger.take_as_found(victim.mountpoint)
    fd = os.open(victim.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)
    return problems


def _show(tally: Tally, seconds: float) -> None:
    table = Table("", "", title="a daemon killed under load", show_header=False)
    table.add_row("kills", f"{tally.kills}")
    table.add_row("of them while a sync was under way", f"{tally.during_sync}")
    table.add_row("of them while a mount recovered", f"{tally.while_recovering}")
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
