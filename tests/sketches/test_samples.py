"""Samples: their positions, the order of values, and the cost of differences."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.sketches.samples import COUNT_MIN, Samples, distance, ordinals, own_bits, positions

COUNTS = st.one_of(st.integers(COUNT_MIN, 5000), st.integers(COUNT_MIN, 1 << 50))


@given(count=COUNTS)
def test_positions_lie_inside(count: int) -> None:
    """Every position is one of the tensor's, and some lie in its last half."""
    picked = positions(count)
    assert picked.min() >= 0
    assert count // 2 <= picked.max() < count


@given(count=COUNTS, few=st.integers(1, 20), more=st.integers(20, 100))
def test_few_positions_are_among_many(count: int, few: int, more: int) -> None:
    """The positions of few samples are among those of many."""
    assert set(positions(count, few)) <= set(positions(count, more))


@given(count=st.integers(1 << 12, 1 << 40), grown=st.floats(1, 1.9))
def test_longer_tensors_are_sampled_alike(count: int, grown: float) -> None:
    """A longer tensor is sampled at nearly the same positions of its beginning."""
    longer = positions(int(count * grown))
    inside = longer[longer < count]
    assert len(np.intersect1d(inside, positions(count))) == len(set(inside.tolist())) > 200


FLOATS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_are_in_order(dtype: str) -> None:
    """The ordinals of floats are in their order, and both zeros have the same."""
    words = np.random.default_rng(1).bytes(8000)
    values = np.frombuffer(words, FLOATS[dtype])
    values = np.concatenate([values[np.isfinite(values)], [0.0, -0.0]]).astype(FLOATS[dtype])
    placed = ordinals(values.view(f"<u{values.itemsize}"), dtype)
    order = np.argsort(placed, kind="stable")
    assert (np.diff(values[order]) >= 0).all()
    assert placed[-1] == placed[-2] == 0


@pytest.mark.parametrize("letter", "IU")
@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_integers_are_in_order(letter: str, bits: int) -> None:
    """Signed and unsigned integers have ordinals in their own order."""
    values = np.frombuffer(np.random.default_rng(1).bytes(800), f"<{letter.lower()}{bits // 8}")
    placed = ordinals(values.view(f"<u{bits // 8}"), f"{letter}{bits}")
    assert (np.diff(values[np.argsort(placed, kind="stable")].astype(object)) >= 0).all()


def samples_of(values: np.ndarray, dtype: str, kept: int = 24) -> Samples:
    words = values.view(f"<u{values.itemsize}")
    return Samples.thinned(dtype, len(values), words[positions(len(values))], kept)


@given(
    count=st.integers(COUNT_MIN, 3000),
    kept=st.integers(1, 128),
    dtype=st.sampled_from(["F16", "F32", "F64"]),
)
def test_stored_samples_come_back(count: int, kept: int, dtype: str) -> None:
    """Samples come back, and bytes of another length are refused."""
    samples = samples_of(np.arange(count).astype(FLOATS[dtype]), dtype, kept)
    stored = samples.to_bytes()
    assert Samples.from_bytes(dtype, count, stored) == samples
    assert len(samples.array) == len(positions(count, kept))
    for wrong in (b"", b"\0", stored[:-1], stored + b"\0", bytes([200]) + stored[1:]):
        with pytest.raises(ValueError, match="samples of"):
            Samples.from_bytes(dtype, count, wrong)


def test_extremes_are_far_apart() -> None:
    """The difference of the largest and the smallest number of 64 bits does not overflow."""
    for dtype, (low, high) in {
        "I64": (np.int64(-(1 << 63)), np.int64((1 << 63) - 1)),
        "U64": (np.uint64(0), np.uint64((1 << 64) - 1)),
        "F64": (np.float64("-inf"), np.float64("inf")),
    }.items():
        low_samples, high_samples = (samples_of(np.full(100, each), dtype) for each in (low, high))
        assert 63 <= distance(low_samples, high_samples) < 66
        assert distance(low_samples, high_samples) == distance(high_samples, low_samples)
        assert distance(low_samples, low_samples) == 0


def test_what_has_no_samples_in_common_is_infinitely_far() -> None:
    """Tensors of very different lengths have no samples in common."""
    short, long = (samples_of(np.ones(count, np.float32), "F32") for count in (100, 100_000))
    assert distance(short, long) == float("inf")


def test_few_changes_cost_little() -> None:
    """A difference that is mostly zeros takes few bits, as many as its entropy."""
    values = np.random.default_rng(1).normal(size=1 << 20).astype(np.float32)
    changed = values.copy()
    changed[::20] *= np.float32(1.001)
    costs = {
        kept: distance(samples_of(values, "F32", kept), samples_of(changed, "F32", kept))
        for kept in (24, 128)
    }
    assert all(0 < cost < 3 for cost in costs.values())


def test_samples_stand_for_as_many_elements_as_there_are() -> None:
    """Tensors that differ in few elements are near, although many samples are of these."""
    count = (1 << 16) + (1 << 12)
    values = np.random.default_rng(1).normal(size=count).astype(np.float32)
    for changed, low, high in ((slice(1 << 16, None), 1, 4), (slice(1 << 14), 7, 10)):
        other = values.copy()
        other[changed] *= -1000
        assert low < distance(samples_of(values, "F32"), samples_of(other, "F32")) < high


def test_samples_kept_in_different_numbers_compare() -> None:
    """The distance hardly depends on the number of kept samples."""
    values = np.random.default_rng(1).normal(size=1 << 16).astype(np.float32)
    moved = (values * np.float32(1.01)).astype(np.float32)
    distances = [
        distance(samples_of(values, "F32", few), samples_of(moved, "F32", many))
        for few, many in itertools.product((8, 24, 100), repeat=2)
    ]
    assert max(distances) - min(distances) < 1


@pytest.mark.parametrize(
    ("values", "dtype", "bits"),
    [
        (np.zeros(1000, np.float32), "F32", 0),
        (np.ones(1000, np.uint8), "U8", 1),
        (np.arange(1000, dtype=np.int64), "I64", 11),
        (np.frombuffer(np.random.default_rng(1).bytes(1000), np.uint8), "U8", 8),
    ],
)
def test_what_values_cost(values: np.ndarray, dtype: str, bits: float) -> None:
    """Constants take hardly a bit, small integers their lengths, and noise all bits."""
    assert own_bits(values.view(f"<u{values.itemsize}"), dtype) == pytest.approx(bits, abs=1)
