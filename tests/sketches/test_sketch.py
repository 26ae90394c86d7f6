"""Sketches: the keys that related tensors have in common, and unrelated ones have not."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from modelfs.codecs.quantise import SCHEMES, Extremes, Parameters, quantised, usual
from modelfs.sketches.sketch import SIZE_MIN, Sampler, Sketch
from tests.support.related_tensors import bf16, weights

Floats = NDArray[np.float32]


def moved(values: Floats, part: float, seed: int = 1) -> Floats:
    """Return values moved by `part` of their spread, as a fine-tune does."""
    return (values + part * weights(*values.shape, seed=seed)).astype(np.float32)


def sketch_of(values: NDArray[np.generic], dtype: str = "F32") -> Sketch:
    sampler = Sampler(dtype, values.shape, values.nbytes)
    sampler.feed(0, values.tobytes())
    sketch = sampler.sketch()
    assert sketch is not None
    return sketch


def pieces(content: bytes, cuts: list[int]) -> Iterator[tuple[int, bytes]]:
    edges = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    for start, stop in pairwise(edges):
        yield start, content[start:stop]


@settings(max_examples=30)
@given(
    cuts=st.lists(st.integers(0, 9000), max_size=20),
    form=st.sampled_from(
        [("F32", (9, 250)), ("BF16", (90, 50)), ("U8", (9000,)), ("I64", (9, 125))]
    ),
)
def test_cuts_do_not_matter(cuts: list[int], form: tuple[str, tuple[int, ...]]) -> None:
    """The sketch does not depend on the cuts between calls of `feed`, also inside elements."""
    content = np.random.default_rng(3).bytes(9000)
    whole, parts = Sampler(*form, 9000), Sampler(*form, 9000)
    whole.feed(0, content)
    for offset, piece in pieces(content, cuts):
        parts.feed(offset, piece)
    assert parts.sketch() == whole.sketch() is not None


def test_what_was_not_all_seen_has_no_sketch() -> None:
    """There is no sketch after a gap, before the end, or of a tiny tensor."""
    content = weights(100, 100).tobytes()
    first, second = (0, content[:5000]), (5000, content[5000:])
    for seen in ([first], [first, (6000, content[6000:])], [second, first]):
        sampler = Sampler("F32", (100, 100), len(content))
        for offset, piece in seen:
            sampler.feed(offset, piece)
        assert sampler.sketch() is None
    tiny = Sampler("F32", (SIZE_MIN // 4 - 1,), SIZE_MIN - 4)
    tiny.feed(0, content[: SIZE_MIN - 4])
    assert tiny.sketch() is None


@given(
    dtype=st.sampled_from(["F32", "BF16", "F64", "F4", "C64", "BOOL", "I8", "U64"]),
    shape=st.lists(st.integers(0, 2000), max_size=4).map(tuple),
    size=st.integers(0, 5000),
)
def test_any_row_can_be_sketched(dtype: str, shape: tuple[int, ...], size: int) -> None:
    """A shape of another size, as in a damaged index, is ignored."""
    sampler = Sampler(dtype, shape, size)
    sampler.feed(0, np.random.default_rng(1).bytes(size))
    assert (sampler.sketch() is None) == (size < SIZE_MIN)


def test_equal_tensors_share_the_exact_key() -> None:
    """Equal tensors are found as such; others, and other dtypes of the same bytes, are not."""
    sketch = sketch_of(weights(100, 100))
    assert sketch_of(weights(100, 100)) == sketch
    assert sketch.exact[0] not in sketch_of(weights(100, 100, seed=1)).exact
    assert sketch.exact[0][1] not in dict(sketch_of(weights(100, 100), "I32").exact).values()


@pytest.mark.parametrize("narrow", ["BF16", "F16"])
def test_a_tensor_has_the_keys_of_its_casts(narrow: str) -> None:
    """A cast of F32 shares an exact key with it, and F32 widened from a cast has that dtype."""
    values = weights(100, 100)
    cast = bf16(values) if narrow == "BF16" else values.astype(np.float16)
    wide = sketch_of(values)
    assert sketch_of(cast, narrow).exact[0] in wide.exact
    assert narrow not in wide.widened
    back = cast.astype(np.uint32) << 16 if narrow == "BF16" else cast.astype(np.float32)
    assert narrow in sketch_of(back).widened
    assert sketch_of(cast, narrow).exact[0] in sketch_of(back).exact


def parameters(values: Floats, scheme: int) -> Parameters:
    extremes = Extremes()
    extremes.feed(values.tobytes())
    return usual(extremes)[scheme]


@pytest.mark.parametrize("scheme", range(len(SCHEMES)))
def test_a_tensor_has_the_keys_of_what_it_is_quantised_to(scheme: int) -> None:
    """Floats have the exact keys of their usual quantisations, for any cuts between feeds."""
    values = weights(200, 200)
    values[150, 150] = 1  # an extreme that is no sample counts, too
    how = parameters(values, scheme)
    numbers = np.frombuffer(quantised(values.reshape(-1), how), "u1").reshape(200, 200)
    key = sketch_of(numbers, how.dtype).exact[0]
    assert key in sketch_of(values).exact
    sampler = Sampler("F32", values.shape, values.nbytes)
    for offset, piece in pieces(values.tobytes(), [7, 5000, 90_001]):
        sampler.feed(offset, piece)
    sketch = sampler.sketch()
    assert sketch is not None
    assert key in sketch.exact
    assert key not in sketch_of(weights(200, 200, seed=1)).exact


def test_what_is_quantised_to_one_number_is_none() -> None:
    """Quantisations in which all samples become one number have no key."""
    values = weights(200, 200)
    values[150, 150] = 1e9
    assert {dtype for dtype, _ in sketch_of(values).exact} == {"F32", "BF16", "F16"}


def test_ties_are_rounded_to_even() -> None:
    """Ties between two numbers of BF16 are rounded to the even one."""
    values = (weights(100, 100).view(np.uint32) & 0xFFFF0000 | 0x8000).view(np.float32)
    assert sketch_of(bf16(values), "BF16").exact[0] in sketch_of(values).exact


def test_doubles_are_rounded_to_singles() -> None:
    """F32 that was cast from F64 has one of its keys."""
    doubles = np.random.default_rng(1).normal(size=(100, 100))
    assert sketch_of(doubles.astype(np.float32)).exact[0] in sketch_of(doubles, "F64").exact


def test_numbers_that_are_none_are_cast_without_a_word() -> None:
    """NaN, infinities and values beyond a narrower float are sketched without warnings."""
    values = weights(100, 100)
    values[::3] = np.nan
    values[1::3] = np.inf
    values[2::3] *= np.float32(1e38)
    assert len(sketch_of(values).exact) == 3


@pytest.mark.parametrize("shape", [(60, 110), (3, 50, 60), (100, 100)])
def test_a_transposed_tensor_knows_the_others_key(shape: tuple[int, ...]) -> None:
    """A tensor and its transpose each have the other's exact key as `transposed`."""
    values = weights(*shape)
    one, other = sketch_of(values), sketch_of(np.ascontiguousarray(np.swapaxes(values, -1, -2)))
    assert one.transposed == other.exact[0][1] != one.exact[0][1]
    assert other.transposed == one.exact[0][1]


def test_vectors_have_no_transpose() -> None:
    """Where one of the last axes is 1, or missing, the transpose is the tensor itself."""
    assert sketch_of(weights(5000)).transposed is None
    assert sketch_of(weights(5000, 1)).transposed is None


# -- bands


def shared(one: Sketch, other: Sketch) -> int:
    return len(set(one.bands) & set(other.bands))


@pytest.mark.parametrize("part", [0.0001, 0.003, 0.03])
def test_a_fine_tune_shares_a_band(part: float) -> None:
    """Weights moved by up to 3 % of their spread have a band in common, in all 50 cases."""
    for seed in range(50):
        values = weights(512, 600, seed=seed)
        assert shared(sketch_of(values), sketch_of(moved(values, part, seed + 1000)))


def test_strangers_share_no_band() -> None:
    """No two of 60 unrelated tensors of one shape and spread have a band in common."""
    bands = [band for seed in range(60) for band in sketch_of(weights(300, 300, seed=seed)).bands]
    assert len(set(bands)) == len(bands)


@pytest.mark.parametrize("rows", [258, 300, 513, 900])
def test_a_longer_tensor_shares_bands_with_its_beginning(rows: int) -> None:
    """A tensor with more rows at its end has bands in common with the shorter one."""
    longer = weights(rows, 1024)
    for fewer in (rows - 1, rows - 40):
        assert shared(sketch_of(longer), sketch_of(longer[:fewer]))


@pytest.mark.parametrize("kind", ["zeros", "counting", "sparse"])
def test_tensors_that_say_little_have_few_keys(kind: str) -> None:
    """Constant, sorted and sparse tensors have no bands."""
    values = np.zeros((500, 600), np.float32)
    if kind == "counting":
        values[:] = np.arange(300_000).reshape(500, 600)
    elif kind == "sparse":
        values[:, 7] = 1
    sketch = sketch_of(values)
    assert sketch.bands == ()
    if kind == "zeros":
        assert (sketch.exact, sketch.transposed, sketch.rows) == ((), None, ())


def test_integers_have_bands() -> None:
    """Quantised weights that moved a little have a band in common."""
    values = np.round(weights(600, 600) * 500).astype(np.int8)
    changed = values + (np.random.default_rng(1).random((600, 600)) < 0.02)
    assert shared(sketch_of(values, "I8"), sketch_of(changed.astype(np.int8), "I8"))
    words = values.astype(np.int64)
    assert shared(sketch_of(words, "I64"), sketch_of(words + (values > 40), "I64"))


# -- bits


@pytest.mark.parametrize(("dtype", "bits"), [("F32", 26.5), ("BF16", 10.6)])
def test_what_weights_take_is_told(dtype: str, bits: float) -> None:
    """The estimate for weights by themselves is the size in byte planes (ZipNN: 81.9, 66.5 %)."""
    values = weights(1000, 1000)
    sketch = sketch_of(values if dtype == "F32" else bf16(values), dtype)
    assert sketch.bits == pytest.approx(bits, abs=0.4)


def test_the_nearer_the_fewer_bits() -> None:
    """The estimate of a delta grows with the difference, from zero to more than the tensor's."""
    values = weights(600, 600)
    bits = []
    for part in (0, 1e-5, 1e-3, 1e-1, 10):
        sketch, base = sketch_of(moved(values, part)), sketch_of(values)
        assert base.samples is not None
        bits.append(sketch.bits_from(base.samples))
    assert bits == sorted(bits)
    assert bits[0] == 0
    assert bits[-1] > sketch.bits


def test_what_is_beyond_a_shorter_source_is_paid_for() -> None:
    """A tensor half of which is in its source takes half of its own bits."""
    values = weights(1200, 600)
    sketch, base = sketch_of(values), sketch_of(values[:600])
    assert base.samples is not None
    assert sketch.bits_from(base.samples) == pytest.approx(sketch.bits / 2)
