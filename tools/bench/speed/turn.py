"""The turn of one system at a work, in one round: its volumes, and its samples."""

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.bench import decode
from tools.bench.speed.clock import Step, laps
from tools.bench.speed.figures import Figure, Results, Sample, Unit
from tools.bench.speed.sources import MIB, Library, Sources
from tools.bench.speed.volumes import System, Volume, files_below
from tools.corpus.manifest import sha256
from tools.mounting import Failed, drop_kernel_caches

WARM_UP: Final = 0  # the number of the round that does not count


class Volumes:
    """The volumes of all systems: those with libraries, which are made once, and empty ones."""

    def __init__(self, folder: Path, sources: Sources, note: Callable[[str], None]) -> None:
        """Prepare to make volumes in a new folder; `note` is called with their descriptions."""
        self.sources = sources
        self._folder = folder
        self._note = note
        self._filled: dict[tuple[str, str], Volume] = {}
        folder.mkdir()

    @contextmanager
    def empty(self, system: System) -> Iterator[Volume]:
        """Make an empty volume, and remove it after the block."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            volume = system.volume(Path(folder))
            volume.make(2 * self.sources.settings.size * MIB)
            yield volume

    def filled(self, system: System, library: Library) -> Volume:
        """Return the volume with a library.

        Raises:
            Failed: a file in it differs from its source.
        """
        key = system.name, library.name
        if key not in self._filled:
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            volume = system.volume(folder)
            source = self.sources.library(library)
            volume.fill(source, optimized=library.is_optimized)
            compare(volume, source)
            if text := volume.describe():
                self._note(f"{system.name}, {library.name}: {text}")
            self._filled[key] = volume
        return self._filled[key]


def compare(volume: Volume, source: Path) -> None:
    """Compare the files of a volume with their sources.

    Raises:
        Failed: a file differs.
    """
    volume.start()
    try:
        for path in files_below(source):
            name = path.relative_to(source)
            if sha256(volume.path / name) != sha256(path):
                raise Failed(f"{name} came back wrong")
    finally:
        volume.stop()


class Turn:
    """A work's access to a system."""

    def __init__(self, system: System, number: int, volumes: Volumes, results: Results) -> None:
        self.system = system
        self.sources = volumes.sources
        self._number = number
        self._volumes = volumes
        self._results = results

    @property
    def is_warm_up(self) -> bool:
        """Whether this round does not count; written bytes are checked in it."""
        return self._number == WARM_UP

    @contextmanager
    def empty(self) -> Iterator[Volume]:
        """Show an empty volume while the block lasts."""
        with self._volumes.empty(self.system) as volume:
            volume.start()
            try:
                os.sync()
                yield volume
            finally:
                volume.stop()

    @contextmanager
    def shown(self, library: Library, *, cold: bool = False) -> Iterator[tuple[Volume, float]]:
        """Show a library while the block lasts, and the seconds that mounting took.

        The kernel has no pages of the mount. It has all pages of the backing files; with `cold` it
        has none.
        """
        volume = self._volumes.filled(self.system, library)
        seconds = volume.start()
        try:
            if cold:
                os.sync()
                drop_kernel_caches()
            else:
                for path in volume.backing():
                    decode.read(path)
            yield volume, seconds
        finally:
            volume.stop()

    def clock(self, volume: Volume, amount: int, steps: Mapping[Figure, Step]) -> None:
        """Do steps one after the other, and note the time to the end of each.

        Args:
            volume: that they use.
            amount: the number of bytes, or of calls, that each of them does.
            steps: by the figure of the time to their end.

        Raises:
            Failed: a step failed, or did not do the amount.
        """
        decode.touch_memory(min(decode.TOUCHED, 2 * self.sources.settings.size * MIB))
        found = laps(list(steps.values()), amount, volume.pid)
        for figure, lap in zip(steps, found, strict=True):
            has_cpu = figure.unit is Unit.SPEED and volume.pid is not None
            cpu = lap.cpu / amount * 1e9 if has_cpu else None
            self.note(figure, figure.unit.of(amount, lap.seconds), cpu)

    def note(self, figure: Figure, value: float, cpu: float | None = None) -> None:
        """Note a sample, unless this is the round that warms up."""
        if not self.is_warm_up:
            self._results.add(figure, self.system.name, Sample(self._number, value, cpu))

    def check(self, written: Path, source: Path) -> None:
        """Compare a written file with its source, in the round that does not count.

        Raises:
            Failed: they differ.
        """
        if self.is_warm_up and sha256(written) != sha256(source):
            raise Failed(f"{written.name} came back wrong from {self.system.name}")


@dataclass(frozen=True, slots=True)
class Work(ABC):
    """Something that programs do with files. Several works may have one name."""

    name: str

    @property
    def title(self) -> str:
        """The name for messages, which only this work has."""
        return self.name

    def lacks(self) -> str:
        """Return the needs that this machine does not have, as a note; empty if it has all."""
        return ""

    def suits(self, system: System) -> bool:
        """Whether a system can do it, and the comparison is of use."""
        return True

    @abstractmethod
    def measure(self, turn: Turn) -> None:
        """Do it once, and note the samples of its figures.

        Raises:
            Failed: a step failed, or bytes are wrong.
            OSError: the system refused something.
            CalledProcessError: a program failed.
        """
