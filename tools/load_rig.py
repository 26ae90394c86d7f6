"""A mounted store of a load test's own, and what is measured beside the load.

A `Rig` is the store, its daemon and a plain folder next to them. `Probe` asks the mount for
something small every 50 ms, in a process of its own, and does the same in the plain folder: what
both had to wait for was the machine. `Monitor` samples the daemon.
"""

import multiprocessing
import os
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final, NamedTuple

from mounting import Mount, modelfs

MIB: Final = 1 << 20
PROBE_SECONDS: Final = 0.05
STALL_SECONDS: Final = 0.1
START_SECONDS: Final = 30.0
# Beside the cache of decoded chunks, a daemon may take this much memory.
RSS_ALLOWANCE: Final = 200 * MIB

context = multiprocessing.get_context("fork")


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
        """Return what du(1) says of the store."""
        files = (path for path in self.store.rglob("*") if path.is_file())
        return sum(_blocks(path) for path in files) * 512


@contextmanager
def rig(folder: Path | None, cache_size: int) -> Iterator[Rig]:
    """Mount a fresh store in a temporary folder; nothing of it is left."""
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


# -- latency


class Asked(NamedTuple):
    """One small request; in seconds."""

    when: float  # monotonic
    took: float
    starved: float  # of it, ready to run but without a processor: the probe and the daemon

    @property
    def own(self) -> float:
        return max(0.0, self.took - self.starved)


@dataclass(frozen=True, slots=True)
class Latency:
    """How long small requests took."""

    samples: list[Asked]

    @property
    def longest(self) -> float:
        """The longest, in seconds, less the wait for a processor."""
        return max((each.own for each in self.samples), default=0.0)

    def __str__(self) -> str:
        if not self.samples:
            return "nothing measured"
        took = sorted(each.took for each in self.samples)
        own = sorted(each.own for each in self.samples)
        late = sum(each > STALL_SECONDS for each in own)
        return (
            f"{_milliseconds(took)}; without the wait for a processor {_milliseconds(own)}, "
            f"{late} of {len(own)} over {1e3 * STALL_SECONDS:.0f} ms"
        )


def _milliseconds(took: list[float]) -> str:
    middle, high = took[len(took) // 2], took[min(len(took) - 1, int(0.999 * len(took)))]
    return f"median {1e3 * middle:.1f}, 99.9 % {1e3 * high:.0f}, max {1e3 * took[-1]:.0f} ms"


class Probe:
    """Small requests that the kernel cannot answer itself, and how long each took."""

    def __init__(self, rig: Rig) -> None:
        self._stop = context.Event()
        self._results = [rig.folder / "probe-mount", rig.folder / "probe-plain"]
        self._processes = []
        for folder, result in zip((rig.path, rig.plain), self._results, strict=True):
            file = folder / "probed"
            file.write_bytes(b"probe" * 1000)
            arguments = (file, result, rig.pid, self._stop)
            self._processes.append(context.Process(target=_probe, args=arguments, daemon=True))
        for process in self._processes:
            process.start()

    def stop(self) -> tuple[Latency, Latency]:
        """Return what was measured in the mount, and in a plain folder."""
        self._stop.set()
        for process in self._processes:
            process.join(START_SECONDS)
        mounted, plain = (_load(result) for result in self._results)
        return mounted, plain


@contextmanager
def probing(rig: Rig) -> Iterator[list[Latency]]:
    """Probe during the block; the list then has the mount's latency, and the plain folder's."""
    probe = Probe(rig)
    measured: list[Latency] = []
    try:
        yield measured
    finally:
        measured.extend(probe.stop())


def _probe(file: Path, result: Path, daemon: int, stop: Event) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with result.open("w", buffering=1) as lines:
        while not stop.is_set():
            starved, start = _starved(daemon) + _starved(os.getpid()), time.monotonic()
            _ask(file)
            took = time.monotonic() - start
            starved = _starved(daemon) + _starved(os.getpid()) - starved
            lines.write(f"{start} {took} {max(0.0, starved)}\n")
            time.sleep(PROBE_SECONDS)


def _starved(process: int) -> float:
    """Return how long a process's main thread was ready to run without a processor, in seconds."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def _ask(file: Path) -> None:
    # Opening and statvfs always reach the daemon; reading does once the page is dropped.
    fd = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if os.pread(fd, 5, 0) != b"probe":
            raise SystemExit("the probe read wrong bytes")
        os.fstatvfs(fd)
    finally:
        os.close(fd)


def _load(path: Path) -> Latency:
    rows = (line.split() for line in path.read_text().splitlines())
    return Latency([Asked(*map(float, row)) for row in rows if len(row) == 3])


# -- the daemon


@dataclass(slots=True)
class Sample:
    """What a daemon took at most, in bytes; `files` are descriptors."""

    rss: int = 0
    anonymous: int = 0  # of it; the rest are pages of mapped files, the index above all
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
        """Return what it takes now; nothing of a daemon that has ended."""
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
        return ", ".join(f"{statistics.median(each) / MIB:.0f}" for each in parts if each)


def _kibibytes(rows: dict[str, str], name: str) -> int:
    return int(rows.get(name, "0").split()[0]) * 1024


# -- tables


class Table:
    """Rows of a name, a value and a bound; `failed` once a bound did not hold."""

    def __init__(self) -> None:
        self.failed = False

    def row(self, name: str, value: object, *, holds: bool = True) -> None:
        self.failed |= not holds
        print(f"{name:44} {value}{'' if holds else '    FAILED'}", flush=True)

    def latency(self, what: str, measured: Sequence[Latency]) -> None:
        for where, latency in zip(("mount", "plain folder"), measured, strict=True):
            self.row(f"{what}, probe in {where}", latency)

    def memory(self, rig: Rig, peak: Sample) -> None:
        bound = rig.cache_size + RSS_ALLOWANCE
        value = f"{peak.rss / MIB:.0f} MiB of {bound / MIB:.0f}, {peak.anonymous / MIB:.0f} its own"
        self.row("most memory of the daemon (RSS)", value, holds=peak.rss <= bound)
        self.row("most open files of the daemon", peak.files)
        self.row("most disk of the store", f"{peak.disk / MIB:.0f} MiB")
