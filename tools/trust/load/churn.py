"""Eight processes at once, the end of the mount below them, and a check of the files afterwards."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from tools.trust.load.client import Task, Version, content, work
from tools.trust.load.probe import context, probing
from tools.trust.load.rig import MIB, Monitor, Rig
from tools.trust.load.table import Table

CLIENTS: Final = 8
DEADLOCK_SECONDS: Final = 30.0
UNDER_LOAD_SECONDS: Final = 15.0

Report = dict[str, Any]


def churn(rig: Rig, table: Table, seconds: float, size: int) -> None:
    """Let clients keep `size` bytes of files; unmount, check, mount again; then end it at work."""
    monitor = Monitor(rig)
    with monitor.watching() as peak, probing(rig) as measured:
        clients = Clients(rig, "first", size)
        clients.watch(seconds)
        clients.finish()
    reports = clients.reports()
    _show(table, reports, clients)
    table.latency("churn", measured)
    table.memory(rig, peak)
    table.row("its own memory, median of each fifth", f"{monitor.growth()} MiB")
    table.row("umount, with ingest pending", f"{rig.unmount():.1f} s")
    _check_store(rig, table, "first", reports)
    clients = Clients(rig, "second", size)
    clients.watch(min(seconds, UNDER_LOAD_SECONDS))
    clients.ending.set()
    table.row("SIGTERM under load", f"{rig.terminate():.1f} s")
    clients.finish()
    reports = clients.reports()
    _show(table, reports, clients)
    _check_store(rig, table, "second", reports)


class Clients:
    """The processes of one round."""

    def __init__(self, rig: Rig, name: str, size: int) -> None:
        self.stop, self.ending = context.Event(), context.Event()
        self._ticks = context.Array("Q", CLIENTS)
        self._top = rig.path / name
        self._results = rig.folder / f"results-{name}"
        self.stuck: set[int] = set()
        self._top.mkdir()
        self._results.mkdir()
        self._processes: list[BaseProcess] = [
            context.Process(target=work, args=(task, self.stop, self.ending, self._ticks))
            for task in (
                Task(self._top, self._results, number, size // CLIENTS, seed=number)
                for number in range(CLIENTS)
            )
        ]
        for process in self._processes:
            process.start()

    def watch(self, seconds: float) -> None:
        """Let them work for `seconds`, and record the processes without progress."""
        deadline = time.monotonic() + seconds
        seen = [(0, time.monotonic())] * CLIENTS
        while time.monotonic() < deadline and not self.stuck:
            time.sleep(min(1.0, seconds / 4))
            now = time.monotonic()
            for number in range(CLIENTS):
                ticks = self._ticks[number]
                if ticks != seen[number][0]:
                    seen[number] = ticks, now
                elif now - seen[number][1] > DEADLOCK_SECONDS:
                    self.stuck.add(number)

    def finish(self) -> None:
        """Stop the processes after their present step."""
        self.stop.set()
        for process in self._processes:
            process.join(DEADLOCK_SECONDS)
            if process.is_alive():
                process.kill()
                process.join(DEADLOCK_SECONDS)

    def reports(self) -> list[Report]:
        """Return the reports of the processes; one that died has none."""
        return [json.loads(path.read_text()) for path in sorted(self._results.iterdir())]


def _show(table: Table, reports: Sequence[Report], clients: Clients) -> None:
    counts: Counter[str] = Counter()
    for report in reports:
        counts.update(report["counts"])
    done = ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
    table.row("operations", f"{counts.total():,} ({done})")
    table.row("bytes written", f"{sum(each['written'] for each in reports) / MIB:,.0f} MiB")
    wrong = [line for report in reports for line in report["wrong"]]
    for line in wrong[:20]:
        print(f"    {line}")
    table.row("wrong reads or refused calls", len(wrong), holds=not wrong)
    table.row("deadlocks (30 s without progress)", len(clients.stuck), holds=not clients.stuck)
    table.row("processes that died", CLIENTS - len(reports), holds=len(reports) == CLIENTS)


def _check_store(rig: Rig, table: Table, name: str, reports: Sequence[Report]) -> None:
    """Check the unmounted store, mount it, and compare every file with its allowed versions."""
    rig.fsck()
    table.row("fsck --data", "sound")
    rig.start()
    wrong: list[str] = []
    files = size = 0
    for number, report in enumerate(reports):
        folder = rig.path / name / f"p{number}"
        for file, versions in report["files"].items():
            if file != "edited" and not _is_one_of(folder / file, versions):
                wrong.append(str(folder / file))
        wrong.extend(_unexpected(folder, report))
        files += len(report["files"])
        size += sum(path.stat().st_size for path in folder.iterdir())
    for line in wrong[:20]:
        print(f"    {line}")
    table.row("files after a remount", f"{files} of {size / MIB:,.0f} MiB")
    table.row("files that are lost or wrong", len(wrong), holds=not wrong)


def _is_one_of(path: Path, versions: Sequence[Sequence[int] | None]) -> bool:
    if not path.exists():
        return None in versions
    data = path.read_bytes()
    return any(data == content(Version(*version)) for version in versions if version is not None)


def _unexpected(folder: Path, report: Report) -> list[str]:
    """Return the files that should not be there, and the edited one if it is wrong."""
    expected = {*report["files"], "edited", ".scratch"}
    unexpected = [str(path) for path in folder.iterdir() if path.name not in expected]
    edited = folder / "edited"
    data = edited.read_bytes() if edited.exists() else b""
    if report["edited"] not in (None, hashlib.sha256(data).hexdigest()):
        unexpected.append(str(edited))
    return unexpected
