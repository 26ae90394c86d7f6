"""The time that small requests take beside a load.

A process sends small requests to the mount every `PROBE_SECONDS`, and another does the same in a
plain folder: a wait that both have is the machine's.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final, NamedTuple

from tools.trust.load.rig import Rig

PROBE_SECONDS: Final = 0.05
STALL_SECONDS: Final = 0.1
END_SECONDS: Final = 30.0

context = multiprocessing.get_context("fork")


class Asked(NamedTuple):
    """One small request; in seconds."""

    when: float  # monotonic
    took: float
    starved: float  # part of it in which the probe or the daemon waited for a processor

    @property
    def own(self) -> float:
        return max(0.0, self.took - self.starved)


@dataclass(frozen=True, slots=True)
class Latency:
    """The times of small requests."""

    samples: list[Asked]

    @property
    def longest(self) -> float:
        """The longest, in seconds, less the wait for a processor."""
        return max((sample.own for sample in self.samples), default=0.0)

    def __str__(self) -> str:
        if not self.samples:
            return "nothing measured"
        took = sorted(sample.took for sample in self.samples)
        own = sorted(sample.own for sample in self.samples)
        late = sum(seconds > STALL_SECONDS for seconds in own)
        return (
            f"{_milliseconds(took)}; without the wait for a processor {_milliseconds(own)}, "
            f"{late} of {len(own)} over {1e3 * STALL_SECONDS:.0f} ms"
        )


def _milliseconds(took: list[float]) -> str:
    middle, high = took[len(took) // 2], took[min(len(took) - 1, int(0.999 * len(took)))]
    return f"median {1e3 * middle:.1f}, 99.9 % {1e3 * high:.0f}, max {1e3 * took[-1]:.0f} ms"


class Probe:
    """Sends small requests that the kernel cannot answer itself, and times them."""

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
        """Return the latencies in the mount and in the plain folder."""
        self._stop.set()
        for process in self._processes:
            process.join(END_SECONDS)
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
    """Return the seconds in which a process's main thread waited for a processor."""
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
