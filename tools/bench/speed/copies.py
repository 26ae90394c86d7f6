"""A stored model is stored once more: copied in again, and copied within the mount."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tools.bench import decode
from tools.bench.speed.figures import Figure, Floor, Unit
from tools.bench.speed.turn import Turn, Work
from tools.bench.speed.volumes import System
from tools.bench.speed.writing import copy, fsync

SECTOR: Final = 512

CLOSED: Final = Figure("stored twice: closed", Unit.SPEED)
DURABLE: Final = Figure("stored twice: to fsync", Unit.SPEED, (Floor(2.5),))
SETTLED: Final = Figure("stored twice: settled", Unit.SPEED)
WRITTEN: Final = Figure("stored twice: written to disk", Unit.SHARE, (Floor(2.0, None),))
WITHIN: Final = Figure("cp within", Unit.TIME, (Floor(100.0, None),))  # of 1 GiB
ADDED: Final = Figure("cp within: chunks stored", Unit.CHUNKS, (Floor(0.0, None),))


@dataclass(frozen=True, slots=True)
class Twice(Work):
    """The same file is copied in under two names."""

    def suits(self, system: System) -> bool:
        return system.can_write

    def measure(self, turn: Turn) -> None:
        source = turn.sources.model
        size = source.stat().st_size
        with turn.empty() as volume:
            copy(source, volume.path / "first")
            volume.settle()
            os.sync()
            decode.read(source)
            second = volume.path / "second"
            before = written(volume.folder)  # nothing else may write to that disk
            steps = {CLOSED: partial(copy, source, second), DURABLE: partial(fsync, second)}
            turn.clock(volume, size, {**steps, SETTLED: volume.settle})
            os.sync()
            after = written(volume.folder)
            if before is not None and after is not None:
                turn.note(WRITTEN, 100 * (after - before) / size)
            turn.check(second, source)


@dataclass(frozen=True, slots=True)
class Within(Work):
    """A stored file is copied inside the volume."""

    def suits(self, system: System) -> bool:
        return system.can_write

    def measure(self, turn: Turn) -> None:
        source = turn.sources.model
        with turn.empty() as volume:
            first, second = volume.path / "first", volume.path / "second"
            copy(source, first)
            volume.settle()
            before = volume.chunks()
            turn.clock(volume, 1, {WITHIN: partial(copy, first, second)})
            volume.settle()
            after = volume.chunks()
            if before is not None and after is not None:
                turn.note(ADDED, after - before)
            turn.check(second, source)


def written(folder: Path) -> int | None:
    """Return the bytes written to the disk of a folder so far; None if there is no such count."""
    device = folder.stat().st_dev
    path = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    # The seventh field of Documentation/block/stat.rst: sectors written.
    return int(path.read_text().split()[6]) * SECTOR if path.exists() else None
