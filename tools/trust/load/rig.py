"""A mounted store for a load test, and the resources that its daemon uses."""

import os
import shutil
import statistics
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tools.mounting import Mount, modelfs

MIB: Final = 1 << 20


class Rig(Mount):
    """A mount, and a plain folder beside it."""

    def __init__(self, folder: Path, cache_size: int) -> None:
        super().__init__(folder / "store", folder / "mnt", "--cache-size", str(cache_size))
        self.folder = folder
        self.plain = folder / "plain"
        self.cache_size = cache_size
        self.plain.mkdir()
        modelfs("mkfs", self.store)

    def disk_bytes(self) -> int:
        """Return the disk space of the store, as du(1) does."""
        files = (path for path in self.store.rglob("*") if path.is_file())
        return sum(_blocks(path) for path in files) * 512


@contextmanager
def rig(folder: Path | None, cache_size: int) -> Iterator[Rig]:
    """Mount a new store in a temporary folder, and remove it after the block."""
    if shutil.which("fusermount3") is None:
        raise SystemExit("fusermount3 is missing: install fuse3")
    with tempfile.TemporaryDirectory(dir=folder, prefix="modelfs-load-") as scratch:
        made = Rig(Path(scratch).resolve(), cache_size)
        try:
            made.start()
            yield made
        finally:
            made.abandon()


def _blocks(path: Path) -> int:
    try:
        return path.stat().st_blocks
    except FileNotFoundError:
        return 0


@dataclass(slots=True)
class Sample:
    """The resources of a daemon, in bytes; `files` counts descriptors."""

    rss: int = 0
    anonymous: int = 0  # part of rss; the rest are pages of mapped files, mainly of the index
    files: int = 0
    disk: int = 0

    def raise_to(self, other: "Sample") -> None:
        for name in ("rss", "anonymous", "files", "disk"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))


@dataclass
class Monitor:
    """Samples a daemon every second on a thread."""

    rig: Rig
    peak: Sample = field(default_factory=Sample)
    history: list[int] = field(default_factory=list)  # its own memory, second by second

    def sample(self) -> Sample:
        """Return the present values; zeros if the daemon has ended."""
        try:
            status = Path(f"/proc/{self.rig.pid}/status").read_text()
            files = len(os.listdir(f"/proc/{self.rig.pid}/fd"))
        except (FileNotFoundError, AssertionError):
            return Sample()
        rows = dict(line.split(":", 1) for line in status.splitlines())
        return Sample(
            rss=_kibibytes(rows, "VmRSS"),
            anonymous=_kibibytes(rows, "RssAnon"),
            files=files,
            disk=self.rig.disk_bytes(),
        )

    @contextmanager
    def watching(self) -> Iterator[Sample]:
        """Sample during the block; the record has the highest values."""
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(ended,), daemon=True)
        thread.start()
        try:
            yield self.peak
        finally:
            ended.set()
            thread.join()
            self.peak.raise_to(self.sample())

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(1.0):
            now = self.sample()
            self.peak.raise_to(now)
            self.history.append(now.anonymous)

    def growth(self) -> str:
        """Return the median of the daemon's own memory in each fifth of the time."""
        part = max(1, len(self.history) // 5)
        parts = [self.history[at : at + part] for at in range(0, 5 * part, part)]
        return ", ".join(f"{statistics.median(part) / MIB:.0f}" for part in parts if part)


def _kibibytes(rows: dict[str, str], name: str) -> int:
    return int(rows.get(name, "0").split()[0]) * 1024
