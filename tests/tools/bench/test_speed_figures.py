"""Ratios and floors of the benchmark of speed."""

import pytest

from tools.bench.speed.figures import PLAIN, Figure, Floor, Results, Sample, Unit


def measured(figure: Figure, **systems: list[float]) -> Results:
    """Return results of a figure, with the samples of the rounds from 1 on."""
    results = Results()
    for system, values in systems.items():
        for number, value in enumerate(values, 1):
            results.add(figure, system, Sample(number, value))
    return results


def test_units() -> None:
    """Speeds are in 10^9 bytes a second, times in milliseconds for one of the amount."""
    assert Unit.SPEED.of(4_000_000_000, 2.0) == 2.0
    assert Unit.TIME.of(1000, 0.5) == 0.5


def test_ratios_are_of_speeds() -> None:
    """A system that is twice as fast has a ratio of 2, for speeds and for times."""
    speed, time = Figure("speed", Unit.SPEED), Figure("time", Unit.TIME)
    assert measured(speed, plain=[1, 2], modelfs=[2, 4]).ratios(speed, "modelfs") == [2, 2]
    assert measured(time, plain=[4, 8], modelfs=[2, 4]).ratios(time, "modelfs") == [2, 2]


def test_ratios_are_within_a_round() -> None:
    """A round without a sample of both sides has no ratio."""
    figure = Figure("read", Unit.SPEED)
    results = measured(figure, plain=[10, 20, 30])
    for number, value in ((1, 5), (3, 3)):
        results.add(figure, "modelfs", Sample(number, value))
    assert results.ratios(figure, "modelfs") == [0.5, 0.1]


def test_memory_has_no_ratio() -> None:
    figure = Figure("memory", Unit.MEMORY)
    assert measured(figure, plain=[1], modelfs=[2]).ratios(figure, "modelfs") == []


@pytest.mark.parametrize(
    ("floor", "value", "holds"),
    [
        (Floor(0.5), 5.0, True),
        (Floor(0.5), 4.9, False),
        (Floor(2.0, "btrfs"), 4.0, True),
        (Floor(2.0, "btrfs"), 3.9, False),
        (Floor(1.2, None), 1.2, True),
        (Floor(1.2, None), 1.1, False),
    ],
)
def test_floors_of_speeds(floor: Floor, value: float, holds: bool) -> None:
    """A ratio, and a speed itself, have to be at least the bound."""
    figure = Figure("read", Unit.SPEED, (floor,))
    results = measured(figure, plain=[10], btrfs=[2], modelfs=[value])
    assert [each.holds for each in results.verdicts(figure, "modelfs", is_hot=True)] == [holds]


@pytest.mark.parametrize(("value", "holds"), [(0.35, True), (0.36, False)])
def test_floors_of_times(value: float, holds: bool) -> None:
    """A time has to be at most the bound."""
    figure = Figure("create", Unit.TIME, (Floor(0.35, None),))
    results = measured(figure, modelfs=[value])
    assert [each.holds for each in results.verdicts(figure, "modelfs", is_hot=True)] == [holds]


def test_a_floor_beside_another_figure() -> None:
    """The other side of the ratio is then another figure of the same system."""
    few = Figure("few", Unit.SPEED)
    many = Figure("many", Unit.SPEED, (Floor(0.95, figure="few"),))
    results = measured(few, plain=[1], modelfs=[2])
    results.add(many, "modelfs", Sample(1, 1.8))
    [verdict] = results.verdicts(many, "modelfs", is_hot=True)
    assert (verdict.measured, verdict.holds) == (0.9, False)


def test_floors_of_mounts_with_and_without_passthrough() -> None:
    """A floor may be one for mounts of one kind only."""
    figure = Figure("read", Unit.SPEED, (Floor(0.95, is_hot=True), Floor(0.35, is_hot=False)))
    results = measured(figure, plain=[1], modelfs=[0.5])
    for is_hot, holds in ((True, False), (False, True)):
        verdicts = results.verdicts(figure, "modelfs", is_hot=is_hot)
        assert [each.holds for each in verdicts] == [holds]


def test_a_floor_without_its_peer() -> None:
    """Without samples of the other side there is no verdict, and there are medians."""
    figure = Figure("read", Unit.SPEED, (Floor(1.0, "btrfs"),))
    results = measured(figure, plain=[1], modelfs=[3, 1, 2])
    assert list(results.verdicts(figure, "modelfs", is_hot=True)) == []
    assert results.median(figure, "modelfs") == 2
    assert results.median(figure, "btrfs") is None
    assert results.of("read", PLAIN) == [Sample(1, 1)]
