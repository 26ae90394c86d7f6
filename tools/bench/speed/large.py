"""Mounting, memory, a file of many extents, and a store of many chunks."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tools.bench import decode
from tools.bench.speed.clock import memory
from tools.bench.speed.figures import Figure, Floor, Unit
from tools.bench.speed.sources import EXTENTS, FEW, MANY, MIB, MODEL, PLAIN
from tools.bench.speed.turn import Turn, Work
from tools.bench.speed.volumes import System

BLOCK: Final = 64 << 10

MOUNTED: Final = Figure("mount", Unit.TIME)
MEMORY: Final = Figure("memory: mounted", Unit.MEMORY)
MEMORY_READ: Final = Figure("memory: a file was read", Unit.MEMORY)
BEGIN: Final = Figure("extents: first read at 0 %", Unit.SPEED)
END: Final = Figure("extents: first read at 99 %", Unit.SPEED, (
    Floor(0.95, figure=BEGIN.name),
))  # fmt: skip
BESIDE_FEW: Final = Figure("chunks: first read beside few", Unit.SPEED)
BESIDE_MANY: Final = Figure("chunks: first read beside many", Unit.SPEED, (
    Floor(0.95, figure=BESIDE_FEW.name),
))  # fmt: skip
MOUNTED_FEW: Final = Figure("chunks: mount with few", Unit.TIME)
MOUNTED_MANY: Final = Figure("chunks: mount with many", Unit.TIME)
MEMORY_FEW: Final = Figure("chunks: memory with few", Unit.MEMORY)
MEMORY_MANY: Final = Figure("chunks: memory with many", Unit.MEMORY)


@dataclass(frozen=True, slots=True)
class Mounting(Work):
    """A library is mounted, and its daemon takes memory."""

    def measure(self, turn: Turn) -> None:
        with turn.shown(PLAIN) as (volume, seconds):
            if seconds:
                turn.note(MOUNTED, 1e3 * seconds)
            if volume.pid is not None:
                turn.note(MEMORY, memory(volume.pid) / MIB)
                decode.read(volume.path / MODEL)
                turn.note(MEMORY_READ, memory(volume.pid) / MIB)


@dataclass(frozen=True, slots=True)
class Extents(Work):
    """A file of very many tensors, each an extent, is read at two places."""

    def suits(self, system: System) -> bool:
        return not system.is_peer

    def measure(self, turn: Turn) -> None:
        # The last but one hundredth: the last one has the end of the file.
        for figure, part in ((BEGIN, 0), (END, 98)):
            with turn.shown(EXTENTS) as (volume, _):
                path = volume.path / MODEL
                start, size = part_of(path, part)
                turn.clock(volume, size, {figure: partial(read_part, path, start, size)})


def part_of(path: Path, part: int) -> tuple[int, int]:
    """Return the begin and the size of a hundredth of the tensors in a safetensors file."""
    with path.open("rb") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
    size = (path.stat().st_size - begin) // 100
    return begin + part * size, size


def read_part(path: Path, start: int, size: int) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead at either place
        places = range(start, start + size, BLOCK)
        return sum(len(os.pread(fd, min(BLOCK, start + size - at), at)) for at in places)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Chunks(Work):
    """The same file is read in a store of few chunks and in one of very many."""

    def suits(self, system: System) -> bool:
        return not system.is_peer

    def measure(self, turn: Turn) -> None:
        for library, read, mounted, taken in (
            (FEW, BESIDE_FEW, MOUNTED_FEW, MEMORY_FEW),
            (MANY, BESIDE_MANY, MOUNTED_MANY, MEMORY_MANY),
        ):
            with turn.shown(library) as (volume, seconds):
                if volume.pid is not None:
                    turn.note(mounted, 1e3 * seconds)
                    turn.note(taken, memory(volume.pid) / MIB)
                path = volume.path / MODEL
                size = path.stat().st_size
                turn.clock(volume, size, {read: partial(decode.read, path)})
