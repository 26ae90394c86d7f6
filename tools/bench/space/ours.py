"""The store under test: filled through a mount, optimized, and read back to the last byte."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tools.bench.space.peers import disk_bytes
from tools.corpus.manifest import sha256
from tools.mounting import MODELFS, Mount, modelfs

Statistics = Mapping[str, Any]


@dataclass(slots=True)
class Figures:
    """Measured sizes and times. Seconds are of a wall clock; speeds are in MB/s (10^6 bytes)."""

    synced: Statistics
    sync_seconds: float
    synced_disk: int
    optimized: Statistics | None = None
    optimize_seconds: float | None = None
    optimized_disk: int | None = None
    wrong: list[str] = field(default_factory=list)

    @property
    def optimize_speed(self) -> float | None:
        """Bytes of distinct chunks that the optimizer worked on, divided by its time."""
        if self.optimize_seconds is None:
            return None
        forms = self.synced["forms"].values()
        looked_at: int = sum(form["raw_bytes"] for form in forms)
        return looked_at / self.optimize_seconds / 1e6


@cache
def can_optimize() -> bool:
    asked = subprocess.run([*MODELFS, "optimize", "--help"], check=False, capture_output=True)
    return asked.returncode == 0


@contextmanager
def fresh(scratch: Path) -> Iterator[Mount]:
    """Mount an empty store, and check it after the block, unless that raises.

    Raises:
        Failed: it is not, or its daemon met errors.
    """
    store = scratch / "store"
    modelfs("mkfs", store)
    mount = Mount(store, scratch / "mnt")
    try:
        mount.start()
        yield mount
        mount.finish()
    finally:
        mount.abandon()
        shutil.rmtree(store)


def measure(mount: Mount, corpus: Path, digests: Mapping[str, str]) -> Figures:
    """Fill a mount with a corpus and optimize it; `digests` has the SHA-256 of each file."""
    start = time.monotonic()
    shutil.copytree(corpus, mount.path / "corpus")
    mount.sync()
    figures = Figures(statistics(mount), time.monotonic() - start, disk_bytes(mount.store))
    if can_optimize():
        figures.optimize_seconds = optimize(mount)
        figures.optimized = statistics(mount)
        mount.collect()
        figures.optimized_disk = disk_bytes(mount.store)
    mount.remount()
    figures.wrong = [
        name for name, digest in digests.items() if sha256(mount.path / "corpus" / name) != digest
    ]
    return figures


def optimize(mount: Mount) -> float:
    """Optimize a mounted store, and return the seconds that it took."""
    start = time.monotonic()
    modelfs("optimize", mount.path)
    return time.monotonic() - start


def statistics(mount: Mount) -> Statistics:
    statistics: Statistics = json.loads(modelfs("stats", mount.path, "--json"))
    return statistics
