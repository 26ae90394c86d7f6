"""Packed planes: each raw, compressed or constant, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.codecs.elements import Element, element_of
from modelfs.codecs.planes import Planes, encode, pack, unpack
from tests.support.element_types import normal

NOISE = np.random.default_rng(1).bytes(2000)
SKEWED = np.random.default_rng(1).geometric(0.5, 2000).astype(np.uint8).tobytes()


@given(
    planes=st.integers(0, 300).flatmap(
        lambda size: st.lists(
            st.binary(min_size=size, max_size=size)
            | st.integers(0, 255).map(lambda value: bytes([value]) * size),
            max_size=20,
        )
    )
)
def test_planes_come_back(planes: list[bytes]) -> None:
    """Any number of planes of any one length is unpacked as it was."""
    length = len(planes[0]) if planes else 0
    assert [*map(bytes, unpack(pack(planes), len(planes), length))] == planes


@pytest.mark.parametrize(
    ("plane", "form", "size"), [(NOISE, 0, 2000), (SKEWED, 1, None), (bytes(2000), 2, 1)]
)
def test_a_plane_takes_the_form_that_pays(plane: bytes, form: int, size: int | None) -> None:
    """Noise stays raw, few values are compressed, and one value is stored as a byte."""
    packed = pack([plane])
    assert packed[0] == form
    assert len(packed) - 5 < 800 if size is None else len(packed) - 5 == size


def test_exponents_take_little_more_than_their_entropy() -> None:
    """Accidental matches do not enlarge bytes in no order (12 % with a hash table of 2^14)."""
    weights = normal(1 << 17, element_of("F32"), 1).view("<u4")
    exponents = (weights >> 23 & 0xFF).astype(np.uint8)
    shares = np.unique_counts(exponents).counts / len(exponents)
    entropy = -(shares * np.log2(shares)).sum() / 8
    assert len(pack([exponents.tobytes()])) < 1.03 * entropy * len(exponents)


def test_matches_are_used_where_they_pay() -> None:
    """Repeated words are compressed, although every byte value is frequent."""
    words = [NOISE[at : at + 12] for at in range(0, 1200, 12)]
    plane = b"".join(words[value % 100] for value in NOISE * 4)
    assert len(pack([plane])) < len(plane) / 3


@pytest.mark.parametrize(
    ("count", "length"), [(1, 2000), (3, 2000), (2, 1999), (2, 2001), (2, 1 << 40), (0, 2000)]
)
def test_other_counts_and_lengths_are_refused(count: int, length: int) -> None:
    """Packed planes of another number or length are refused."""
    with pytest.raises(ValueError, match=r"."):
        unpack(pack([NOISE, SKEWED]), count, length)


@pytest.mark.parametrize("plane", [NOISE, SKEWED])
@pytest.mark.parametrize("length", [0, 1999, 2001])
def test_a_plane_of_another_length_is_refused(plane: bytes, length: int) -> None:
    """A plane of any form that decodes to another length is refused."""
    with pytest.raises(ValueError, match=r"."):
        unpack(pack([plane]), 1, length)


def test_a_float_has_its_exponent_in_one_plane() -> None:
    """The high plane of BF16 weights compresses to a third, and the low one is noise."""
    raw = normal(1 << 16, element_of("F32"), 1).view("<u2")[1::2].tobytes()
    stored = encode(raw, element_of("BF16"))
    assert stored[:3] == bytes([2, 1, 0])
    assert len(stored) < 0.68 * len(raw)


@pytest.mark.parametrize("head", [b"", b"\2", b"\0\0", b"\3\0", b"\2\2", b"\1\1", b"\x10\0"])
def test_another_head_is_refused(head: bytes) -> None:
    """Widths are 1, 2, 4 and 8, and only words of two bytes or more are rotated."""
    stored = encode(NOISE, Element(2))
    with pytest.raises(ValueError, match="no byte planes"):
        Planes().decode(head + stored[2:] if len(head) == 2 else head, len(NOISE))


def test_turned_words() -> None:
    """The example of the module: two words of BF16, turned by a bit, and their planes."""
    stored = encode(np.array([0xBF80, 0x3F81], "<u2").tobytes(), element_of("BF16"))
    plane, *_ = unpack(stored[2:], 2, 2)
    assert bytes(plane) == bytes([1, 2])
    assert stored.endswith(b"\x7f")
