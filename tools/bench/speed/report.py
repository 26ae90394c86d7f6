"""The results as a table for a terminal, and as JSON with every sample."""

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from modelfs import __version__
from modelfs.mount_table import mount_point_of, mounted_at
from tools.bench.speed.figures import PLAIN, Figure, Results, Verdict
from tools.bench.speed.sources import Settings
from tools.bench.speed.volumes import System

ABSENT: Final = "-"
WIDTH: Final = 180  # where the output is no terminal
DIGITS: Final = 3


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder lies on."""
    mount = mounted_at(mount_point_of(folder))
    return mount.kind if mount else "unknown"


def document(
    results: Results, systems: Sequence[System], settings: Settings, kind: str
) -> dict[str, Any]:
    """Return everything that was measured. `kind` is the type of the plain file system."""
    return {
        "machine": {"kernel": platform.release(), "cores": os.cpu_count(), "file_system": kind},
        "modelfs": __version__,
        "settings": {**asdict(settings), "family": str(settings.family)},
        "systems": [system.name for system in systems],
        "figures": [_described(results, figure, systems) for figure in results.figures.values()],
        "notes": results.notes,
        "failed": results.failed,
    }


def _described(results: Results, figure: Figure, systems: Sequence[System]) -> dict[str, Any]:
    return {
        "name": figure.name,
        "unit": figure.unit.value,
        "samples": {
            system.name: [asdict(sample) for sample in found]
            for system in systems
            if (found := results.of(figure.name, system.name))
        },
        "ratios": {
            system.name: ratios
            for system in systems
            if system.name != PLAIN and (ratios := results.ratios(figure, system.name))
        },
        "floors": {
            system.name: [asdict(verdict) for verdict in verdicts]
            for system in systems
            if (verdicts := _verdicts(results, figure, system))
        },
    }


def show(results: Results, systems: Sequence[System], kind: str) -> None:
    """Print the medians, ratios and floors."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    ours = [system for system in systems if not system.is_peer and system.name != PLAIN]
    peers = [system for system in systems if system.is_peer]
    table = Table("", kind, box=None, pad_edge=False)
    for system in ours:
        for title in (system.name, "ratio", "CPU s/GB", "floor"):
            table.add_column(title)
    for system in peers:
        table.add_column(system.name)
    for figure in results.figures.values():
        table.add_row(
            figure.name,
            _value(figure, results.median(figure, PLAIN)),
            *(cell for system in ours for cell in _cells(results, figure, system)),
            *(_peer(results, figure, system) for system in peers),
        )
    console.print(table)
    for line in (*results.notes, *(f"FAILED: {line}" for line in results.failed)):
        console.print(line, highlight=False, markup=False)


def _cells(results: Results, figure: Figure, system: System) -> Iterator[str]:
    yield _value(figure, results.median(figure, system.name))
    ratios = results.ratios(figure, system.name)
    yield (f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ABSENT)
    cpu = results.cpu(figure, system.name)
    yield ABSENT if cpu is None else f"{cpu:.2f}"
    yield ", ".join(map(_verdict, _verdicts(results, figure, system)))


def _peer(results: Results, figure: Figure, system: System) -> str:
    ratios = results.ratios(figure, system.name)
    return (
        f"{median(ratios):.2f}" if ratios else _value(figure, results.median(figure, system.name))
    )


def _value(figure: Figure, value: float | None) -> str:
    if value is None:
        return ABSENT
    decimals = 0 if value == 0 else max(0, DIGITS - len(f"{value:.0f}")) + (value < 1)
    return f"{value:,.{decimals}f} {figure.unit.value}"


def _verdicts(results: Results, figure: Figure, system: System) -> list[Verdict]:
    if system.is_peer or system.name == PLAIN:
        return []
    return list(results.verdicts(figure, system.name, is_hot=system.is_hot))


def _verdict(verdict: Verdict) -> str:
    floor = verdict.floor
    other = floor.figure or (floor.system if floor.system != PLAIN else None)
    of_other = f" of {other}" if other else ""
    return f"{floor.bound:g}{of_other} {'ok' if verdict.holds else 'miss'}"
