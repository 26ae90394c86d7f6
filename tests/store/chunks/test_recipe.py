"""Recipes: every recipe survives encoding, and junk is refused."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.store.chunks.recipe import Recipe, SourceRun, joined
from modelfs.store.index.tables import ChunkId

U32 = st.integers(0, (1 << 32) - 1)
RUNS = st.builds(SourceRun, st.builds(ChunkId, st.integers(0, (1 << 64) - 1)), U32, U32)
RECIPES = st.builds(Recipe, st.lists(RUNS, min_size=1, max_size=5).map(tuple), st.binary())
GOLDEN = bytes.fromhex(
    "02000000" + "0700000000000000" + "05000000" + "00100000" + "0801000000000000" + "00000000"
    "03000000" + "706179"
)


@given(recipe=RECIPES)
def test_decoding_undoes_encoding(recipe: Recipe) -> None:
    """Any recipe survives encoding and decoding."""
    assert Recipe.from_bytes(recipe.to_bytes()) == recipe


@given(junk=st.binary(max_size=100) | RECIPES.map(Recipe.to_bytes).map(lambda data: data[:-1]))
def test_junk_is_refused(junk: bytes) -> None:
    """Any bytes decode to a recipe that encodes to the same bytes, or are refused."""
    try:
        recipe = Recipe.from_bytes(junk)
    except ValueError:
        return
    assert recipe.to_bytes() == junk


def test_old_stores_stay_readable() -> None:
    """The stored form is pinned, both ways."""
    runs = SourceRun(ChunkId(7), 5, 4096), SourceRun(ChunkId(264), 0, 3)
    assert Recipe.from_bytes(GOLDEN) == Recipe(runs, b"pay")
    assert Recipe(runs, b"pay").to_bytes() == GOLDEN


@pytest.mark.parametrize("stop", range(4 + 2 * 16))
def test_a_recipe_cut_short_is_refused(stop: int) -> None:
    """A recipe that ends before its payload begins is refused."""
    with pytest.raises(ValueError, match="a recipe of"):
        Recipe.from_bytes(GOLDEN[:stop])


def test_a_recipe_has_a_source() -> None:
    """A recipe without runs is refused."""
    with pytest.raises(ValueError, match="0 runs"):
        Recipe.from_bytes(bytes(4) + b"payload")


def test_sources_are_named_once() -> None:
    """A chunk with several runs is one source; sources are in the order of their first runs."""
    runs = [SourceRun(ChunkId(chunk), skip, 1) for chunk, skip in ((5, 0), (3, 7), (5, 9))]
    assert Recipe(tuple(runs), b"").sources == (5, 3)


@given(runs=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4), st.integers(1, 4))))
def test_joined_runs_are_the_same_bytes(runs: list[tuple[int, int, int]]) -> None:
    """Adjacent runs become one, and no two adjacent ones are left."""
    before = [SourceRun(ChunkId(chunk), skip, length) for chunk, skip, length in runs]
    after = joined(before)
    assert _bytes_of(after) == _bytes_of(before)
    for left, right in pairwise(after):
        assert (left.chunk, left.skip + left.length) != (right.chunk, right.skip)


def _bytes_of(runs: Iterable[SourceRun]) -> list[tuple[int, int]]:
    return [(run.chunk, at) for run in runs for at in range(run.skip, run.skip + run.length)]
