"""Transposed arrays, in whole and in parts, are those that numpy makes."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.codecs.transpose import Geometry, Transpose, encode, whole

TRANSPOSE = Transpose()

geometries = st.builds(
    Geometry,
    st.sampled_from([1, 2, 4, 8, 16]),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(1, 40),
)


def array(geometry: Geometry) -> np.ndarray[tuple[int, ...], np.dtype[np.void]]:
    """Return an array of which no two elements are alike, where their width allows."""
    octets = np.random.default_rng(geometry.size).bytes(geometry.size)
    shape = geometry.batch, geometry.rows, geometry.columns
    return np.frombuffer(octets, f"V{geometry.width}").reshape(shape)


@given(geometry=geometries)
def test_the_whole_is_transposed(geometry: Geometry) -> None:
    """Rows become columns, in each matrix."""
    source = array(geometry)
    assert whole(source.tobytes(), geometry) == source.transpose(0, 2, 1).tobytes()


@given(geometry=geometries, data=st.data())
def test_a_part_is_of_the_whole(geometry: Geometry, data: st.DataObject) -> None:
    """A part begins and ends at any byte."""
    start = data.draw(st.integers(0, geometry.size))
    stop = data.draw(st.integers(start, geometry.size))
    source = array(geometry).tobytes()
    part = TRANSPOSE.decode(encode(geometry, start), stop - start, source)
    assert part == whole(source, geometry)[start:stop]


@given(
    payload=st.binary(max_size=30)
    | st.builds(encode, st.builds(Geometry, *[st.integers(0, 17)] * 4), st.integers(0, 9)),
    size=st.integers(0, 64),
    source=st.binary(max_size=64),
)
def test_junk_is_refused(payload: bytes, size: int, source: bytes) -> None:
    """Any bytes say what part of a transposed array this is, or are refused."""
    with contextlib.suppress(ValueError):
        assert len(TRANSPOSE.decode(payload, size, source)) == size


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(4, 1, 2, 2),
        Geometry(3, 1, 2, 4),
        Geometry(0, 1, 2, 2),
        Geometry(4, 0, 2, 3),
        Geometry(1 << 7, 1 << 31, 1 << 31, 1 << 31),
    ],
)
def test_another_geometry_is_refused(geometry: Geometry) -> None:
    """24 bytes are not any array."""
    with pytest.raises(ValueError, match=r"."):
        whole(bytes(24), geometry)
    with pytest.raises(ValueError, match=r"."):
        TRANSPOSE.decode(encode(geometry, 0), min(24, geometry.size), bytes(24))


@pytest.mark.parametrize(("start", "size"), [(0, 25), (20, 5), (1 << 62, 0), (24, 1)])
def test_a_part_beyond_the_end_is_refused(start: int, size: int) -> None:
    """A part lies in the array."""
    with pytest.raises(ValueError, match=r"."):
        TRANSPOSE.decode(encode(Geometry(4, 1, 2, 3), start), size, bytes(24))


def test_a_matrix_of_bytes() -> None:
    """The example of the module: a chunk from byte 2 of a transposed matrix of 2 x 3 bytes."""
    source = bytes([1, 2, 3, 4, 5, 6])
    payload = encode(Geometry(1, 1, 2, 3), 2)
    assert Transpose().decode(payload, 4, source) == bytes([2, 5, 3, 6])
