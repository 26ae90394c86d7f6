"""Compiled loops of deltas return and refuse the same as those in numpy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from modelfs.codecs.base import Bytes
from modelfs.codecs.kernels import delta as delta_kernels
from modelfs.codecs.kernels import delta_numpy
from modelfs.codecs.kernels.delta_streams import CLASSES, Streams
from tests.support.compiled_kernels import both_of, compiled

KINDS = [(1, 0), (1, 4), (1, 5), (2, 8), (2, 5), (2, 0), (4, 8), (4, 0), (8, 11), (8, 0)]


def both(name: str, *args: object) -> Any:
    """Return the common result of both; None if both refuse."""
    return both_of(compiled("_delta"), delta_numpy, name, *args)


@contextmanager
def expanding(*, wanted: bool) -> Iterator[None]:
    """Read tokens with AVX-512 if the processor has it, and without it."""
    before = compiled("_delta").expanding(wanted)
    try:
        yield
    finally:
        compiled("_delta").expanding(before)


def test_what_is_compiled_is_used() -> None:
    """Where there are compiled loops, the codecs run them."""
    for name in delta_kernels.__all__:
        assert getattr(delta_kernels, name) is getattr(compiled("_delta"), name)


@st.composite
def words(draw: st.DrawFn, width: int) -> tuple[bytes, bytes]:
    """Draw words and others that are near some of them."""
    random = np.random.default_rng(draw(st.integers(0, 999)))
    base = np.frombuffer(random.bytes(draw(st.integers(0, 300)) * width), f"<u{width}")
    bits = draw(st.integers(1, 8 * width - 1))
    steps = random.integers(0, 1 << bits, len(base), dtype=base.dtype)
    return (base + steps * (random.random(len(base)) < 0.5)).astype(base.dtype).tobytes(), (
        base.tobytes()
    )


@given(kind=st.sampled_from(KINDS), data=st.data())
def test_deltas_are_made_and_undone_alike(kind: tuple[int, int], data: st.DataObject) -> None:
    """Both make the same steps and streams, and restore the original words."""
    width, exponent = kind
    raw, base = data.draw(words(width))
    most = min(8 * width - 1 - exponent, 6) if exponent else 0
    bits = data.draw(st.integers(0, most))
    table = np.random.default_rng(bits).integers(-999, 999, 1 << bits).astype("<i4").tobytes()
    table = table if bits else b""
    zigzag, peaks = both("differ", raw, base, width, exponent, table)
    shift = data.draw(st.integers(0, 80))
    tops = np.frombuffer(peaks, "<u2")
    scales = np.where(tops > 0, tops + shift, 0).astype("<u2").tobytes()
    tokens, lows, escapes = both("scatter", zigzag, base, width, exponent, scales)
    streams = Streams(table, scales, tokens, lows, escapes)
    with expanding(wanted=data.draw(st.booleans())):
        assert both("restore", base, width, exponent, streams, b"tail") == raw + b"tail"
        both("restore", base, width, exponent, data.draw(damaged(streams)), b"")


@st.composite
def damaged(draw: st.DrawFn, streams: Streams) -> Streams:
    """Draw streams of which one has other bytes."""
    name = draw(st.sampled_from(Streams._fields))
    if name != "tokens":
        other = draw(st.binary(max_size=40)) + getattr(streams, name)[draw(st.integers(0, 3)) :]
        return streams._replace(**{name: other})
    tokens: list[Bytes] = [bytes(of_class) for of_class in streams.tokens]
    place = draw(st.integers(0, CLASSES - 1))
    tokens[place] = bytes(tokens[place])[draw(st.integers(0, 1)) :] + draw(st.binary(max_size=2))
    return streams._replace(tokens=tokens)


@given(
    tokens=st.lists(st.integers(0, 20), max_size=200),
    bits=st.sampled_from([2, 4]),
    other=st.sampled_from([0, 0, 0, -1, 1]),
)
def test_tokens_are_widened_alike(tokens: list[int], bits: int, other: int) -> None:
    """Packed tokens come back; another number of large ones is refused."""
    most, per_byte = (1 << bits) - 1, 8 // bits
    large = bytes(token for token in tokens if token >= most)
    packed = bytearray(-(-len(tokens) // per_byte))
    for place, token in enumerate(tokens):
        packed[place // per_byte] |= min(token, most) << (place % per_byte * bits)
    given_large = large[: len(large) + other] if other < 0 else large + bytes(other)
    expected = bytes(tokens) if given_large == large else None
    assert both("widen", bytes(packed), bits, given_large, len(tokens)) == expected


@given(packed=st.binary(max_size=3), bits=st.integers(-1, 9), count=st.integers(0, 20))
def test_other_tokens_are_refused_alike(packed: bytes, bits: int, count: int) -> None:
    """Both refuse tokens of another width, and packed bytes of another size."""
    both("widen", packed, bits, b"", count)


@given(width=st.integers(0, 9), exponent=st.integers(-1, 12), data=st.data())
def test_other_kinds_are_refused_alike(width: int, exponent: int, data: st.DataObject) -> None:
    """Both refuse or both accept any width, exponent and table."""
    raw = data.draw(st.binary(max_size=20))
    both("differ", raw, bytes(len(raw)), width, exponent, data.draw(st.binary(max_size=16)))
    both("scatter", raw, bytes(len(raw)), width, exponent, data.draw(st.binary(max_size=4)))
