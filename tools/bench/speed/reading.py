"""A file is read for the first time through a mount, again, and with nothing in memory."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tools.bench import decode
from tools.bench.speed import ways
from tools.bench.speed.figures import Figure, Floor
from tools.bench.speed.peers import BTRFS, SQUASHFUSE
from tools.bench.speed.sources import FAMILY, MODEL, OPTIMIZED, PLAIN, Library
from tools.bench.speed.turn import Turn, Work
from tools.bench.speed.volumes import Volume, files_below
from tools.bench.speed.ways import Way

Floors = tuple[Floor, ...]

MODELS: Final = (".safetensors", ".onnx", ".data", ".pt", ".bin", ".gguf")
MODEL_MIN: Final = 64 << 10  # bytes; smaller files of a family take longer to open than to read


@dataclass(frozen=True, slots=True)
class Reading(Work):
    """A file that is read in one way."""

    way: Way
    library: Library = PLAIN
    file: Path = Path(MODEL)
    first: Floors = ()
    again: Floors = ()
    cold: Floors = ()

    @property
    def title(self) -> str:
        return self.way.name + ("" if self.library is PLAIN else f" {self.file}")

    def measure(self, turn: Turn) -> None:
        with turn.shown(self.library) as (volume, _):
            self._read(turn, volume, "first", self.first)
            self._read(turn, volume, "again", self.again)
        if os.geteuid() == 0:  # others cannot drop the caches
            with turn.shown(self.library, cold=True) as (volume, _):
                self._read(turn, volume, "cold", self.cold)

    def _read(self, turn: Turn, volume: Volume, state: str, floors: Floors) -> None:
        figure = Figure(f"{self.title}: {state}", self.way.unit, floors)
        path = volume.path / self.file
        turn.clock(volume, self.way.amount(path), {figure: partial(self.way.read, path)})


HOT: Final = (Floor(0.95, is_hot=True),)
COLD: Final = (Floor(0.9),)
OF_PEERS: Final = (Floor(1.0, BTRFS), Floor(1.5, SQUASHFUSE))
OF_FAMILY: Final = (Floor(0.4),)  # 2.5 times as long

PLAIN_READING: Final = (
    Reading("read", ways.READ, first=(*HOT, Floor(0.35, is_hot=False)), again=HOT, cold=COLD),
    Reading("load_file", ways.LOAD_FILE, first=HOT, again=HOT, cold=COLD),
    Reading("safe_open", ways.SAFE_OPEN, first=HOT, again=HOT, cold=COLD),
    Reading("map", ways.MAP, first=(Floor(0.75, is_hot=True),), again=(Floor(0.75, is_hot=True),)),
    Reading("readers", ways.AT_ONCE),
    Reading("direct", ways.DIRECT),
    Reading("random", ways.RANDOM),
)


def of_forms() -> Iterator[Reading]:
    """Yield the readings of optimized files: a base of BF16, and a fine-tune of F32."""
    for name, speed in (("BF16 planes", 1.2), ("F32 delta", 0.8)):
        file = decode.path_of(Path(), name)
        yield Reading(
            "forms", ways.READ, OPTIMIZED, file, first=(Floor(speed, None),), cold=OF_PEERS
        )
        yield Reading("forms", ways.LOAD_FILE, OPTIMIZED, file, cold=OF_PEERS)
        yield Reading("forms", ways.SAFE_OPEN, OPTIMIZED, file, cold=OF_PEERS)


def of_family(family: Path) -> Iterator[Reading]:
    """Yield the readings of a family's models, each as programs do it."""
    for path in files_below(family):
        if path.suffix in MODELS and path.stat().st_size >= MODEL_MIN:
            way = ways.SAFE_OPEN if path.suffix == ".safetensors" else ways.COPIED
            yield Reading("family", way, FAMILY, path.relative_to(family), cold=OF_FAMILY)
