"""Figures, their samples in rounds, and the floors that a figure has to reach."""

import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

# The file system that the store lies on; each ratio is one to its sample of the same round.
PLAIN: Final = "plain"


class Unit(Enum):
    """The unit of a figure's values."""

    SPEED = "GB/s"  # 10^9 bytes a second
    TIME = "ms"  # for one call or one file
    SHARE = "%"
    MEMORY = "MiB"
    CHUNKS = "chunks"

    @property
    def has_ratios(self) -> bool:
        return self in (Unit.SPEED, Unit.TIME)

    @property
    def is_better_high(self) -> bool:
        return self is Unit.SPEED

    def of(self, amount: int, seconds: float) -> float:
        """Return the value for an amount, of bytes or of calls, that took some seconds."""
        return amount / seconds / 1e9 if self is Unit.SPEED else 1e3 * seconds / amount


@dataclass(frozen=True, slots=True)
class Floor:
    """A bound. A ratio is one of speeds, and has to be at least as high."""

    bound: float
    system: str | None = PLAIN  # the other side of the ratio; None: the bound is one of the value
    figure: str = ""  # of the other side, if it is another one
    is_hot: bool | None = None  # only for mounts with passthrough, only for those without it


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table."""

    name: str
    unit: Unit
    floors: tuple[Floor, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement."""

    round: int
    value: float
    cpu: float | None = None  # seconds of the daemon for a GB of the amount


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a figure reaches a floor."""

    floor: Floor
    measured: float
    holds: bool


@dataclass(slots=True)
class Results:
    """All samples, in the order of their works, and the works that have none."""

    figures: dict[str, Figure] = field(default_factory=dict)
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=lambda: defaultdict(list))
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(self, figure: Figure, system: str, sample: Sample) -> None:
        self.figures[figure.name] = figure
        self.samples[figure.name, system].append(sample)

    def of(self, figure: str, system: str) -> list[Sample]:
        return self.samples.get((figure, system), [])

    def median(self, figure: Figure, system: str) -> float | None:
        values = [sample.value for sample in self.of(figure.name, system)]
        return statistics.median(values) if values else None

    def cpu(self, figure: Figure, system: str) -> float | None:
        """Return the median of the daemon's CPU seconds for a GB."""
        times = [sample.cpu for sample in self.of(figure.name, system) if sample.cpu is not None]
        return statistics.median(times) if times else None

    def ratios(
        self, figure: Figure, system: str, other: str = PLAIN, other_figure: str = ""
    ) -> list[float]:
        """Return in each round how many times as fast a system is as another one."""
        if not figure.unit.has_ratios:
            return []
        name = other_figure or figure.name
        beside = {sample.round: sample.value for sample in self.of(name, other)}
        pairs = [
            (sample.value, beside[sample.round])
            for sample in self.of(figure.name, system)
            if sample.round in beside
        ]
        return [a / b if figure.unit.is_better_high else b / a for a, b in pairs]

    def verdicts(self, figure: Figure, system: str, *, is_hot: bool) -> Iterator[Verdict]:
        """Yield the verdict on each floor that is one for such a mount and has samples."""
        for floor in figure.floors:
            other = system if floor.figure else floor.system
            if other is None:
                values = [sample.value for sample in self.of(figure.name, system)]
            else:
                values = self.ratios(figure, system, other, floor.figure)
            if values and floor.is_hot in (None, is_hot):
                measured = statistics.median(values)
                is_high = other is not None or figure.unit.is_better_high
                holds = measured >= floor.bound if is_high else measured <= floor.bound
                yield Verdict(floor, measured, holds)
