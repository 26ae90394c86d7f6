"""Compiled loops of planes return and refuse the same as those in numpy."""

import re
import tomllib
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.codecs.kernels import planes as planes_kernels
from modelfs.codecs.kernels import planes_numpy
from tests.support.compiled_kernels import compiled
from tests.support.paths import CHECKOUT

TWINS = {"_planes": planes_numpy}


def outcome(module: ModuleType, name: str, *args: object) -> Any:
    """Return the result of a function, or the message of its ValueError."""
    try:
        return getattr(module, name)(*args)
    except ValueError as exc:
        return str(exc)


@pytest.mark.parametrize("name", TWINS)
def test_kernels_are_compiled(name: str) -> None:
    """A compiled module has every function of the one in numpy."""
    functions = {
        function for function in vars(TWINS[name]) if callable(vars(TWINS[name])[function])
    }
    own = {
        function
        for function in functions
        if vars(TWINS[name])[function].__module__ == TWINS[name].__name__
    }
    assert own
    assert own <= set(vars(compiled(name)))


def test_what_is_compiled_is_used() -> None:
    """Where there are compiled loops, the codecs run them."""
    assert planes_kernels.merge is compiled("_planes").merge


@given(raw=st.binary(max_size=400), width=st.integers(0, 9), rotated=st.booleans())
def test_planes_are_split_alike(raw: bytes, width: int, *, rotated: bool) -> None:
    """Whole words of 2, 4 and 8 bytes give the same planes; all else gives the same message."""
    if width in {2, 4, 8}:
        raw += raw * (width - 1) if len(raw) % 3 else b""
    expected = outcome(planes_numpy, "split", raw, width, rotated)
    assert outcome(compiled("_planes"), "split", raw, width, rotated) == expected


@given(
    planes=st.lists(st.binary(min_size=3, max_size=5), max_size=9)
    | st.integers(0, 100).flatmap(
        lambda size: st.lists(st.binary(min_size=size, max_size=size), min_size=8, max_size=8)
    ),
    count=st.sampled_from([0, 1, 2, 4, 8]),
    rotated=st.booleans(),
    tail=st.binary(max_size=7),
)
def test_planes_are_merged_alike(
    planes: list[bytes], count: int, *, rotated: bool, tail: bytes
) -> None:
    """Planes of one length give the same words, and undo `split`; others the same message."""
    planes = planes[:count]
    merged = outcome(planes_numpy, "merge", planes, rotated, tail)
    assert outcome(compiled("_planes"), "merge", planes, rotated, tail) == merged
    if isinstance(merged, bytes):
        words = merged[: len(merged) - len(tail)]
        assert merged == words + tail
        assert planes_numpy.split(words, len(planes), rotated) == planes


@given(
    packed=st.binary(max_size=40),
    bits=st.sampled_from([1, 2, 4, 8, 3]),
    palette=st.binary(max_size=80),
    width=st.sampled_from([1, 2, 4, 8, 5]),
    less=st.integers(0, 9) | st.just(-(1 << 61)),
)
def test_palettes_are_expanded_alike(
    packed: bytes, bits: int, palette: bytes, width: int, less: int
) -> None:
    """Indices in the palette give the same words; others give the same message."""
    count = max(0, len(packed) * 8 // bits - less)
    args = (packed, bits, palette, width, count)
    assert outcome(compiled("_planes"), "expand", *args) == outcome(planes_numpy, "expand", *args)


def test_what_kernels_include_is_in_a_source_distribution() -> None:
    """Every file that a kernel includes is named as its dependency, so that an sdist has it."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    for module in project["tool"]["setuptools"]["ext-modules"]:
        [source] = module["sources"]
        included = re.findall(
            r"^from (modelfs[\w.]+) cimport", (CHECKOUT / source).read_text(), re.MULTILINE
        )
        assert module.get("depends", []) == [
            header.replace(".", "/") + ".pxd" for header in included
        ]
