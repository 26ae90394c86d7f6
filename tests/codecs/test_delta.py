"""A delta gives any content back, and is small where numbers moved little."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.codecs.delta import Delta, encode
from modelfs.codecs.elements import Element, element_of
from modelfs.codecs.kernels.delta import differ
from tests.support.element_types import contents, elements

DELTA = Delta()
F32, BF16 = element_of("F32"), element_of("BF16")
SPECIAL = np.array([0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-45, -1e-45], "<f4")


def trained(count: int, decay: float = 0.0, noise: float = 1e-5) -> tuple[bytes, bytes]:
    """Return weights before and after training."""
    random = np.random.default_rng(5)
    base = random.normal(0, 0.05, count).astype("<f4")
    tuned = base * np.float32(1 - decay) + random.normal(0, noise, count).astype("<f4")
    return base.tobytes(), tuned.astype("<f4").tobytes()


@given(element=elements, data=st.data(), cut=st.integers(0, 300))
def test_a_delta_gives_the_content_back(element: Element, data: st.DataObject, cut: int) -> None:
    """Any content comes back from any base, of its length, longer or shorter."""
    raw, base = data.draw(contents(element)), data.draw(contents(element))
    base = (base + raw)[cut:]
    assert DELTA.decode(encode(raw, base, element), len(raw), base) == raw


@given(element=elements, data=st.data(), bits=st.integers(0, 63))
def test_steps_of_any_size_come_back(element: Element, data: st.DataObject, bits: int) -> None:
    """Words that differ little, much or not at all from their base's come back."""
    base = data.draw(st.binary(min_size=64, max_size=2400))
    base = base[: len(base) - len(base) % element.width]
    words = np.frombuffer(base, f"<u{element.width}")
    random = np.random.default_rng(bits)
    steps = random.integers(0, 1 << min(bits, 8 * element.width - 1), len(words), dtype=np.uint64)
    raw = (words + (steps * (random.random(len(words)) < 0.5)).astype(words.dtype)).tobytes()
    assert DELTA.decode(encode(raw, base, element), len(raw), base) == raw


@pytest.mark.parametrize("element", [F32, element_of("I32")])
def test_special_numbers_come_back(element: Element) -> None:
    """Steps between all special numbers come back, with the signs of zeros and NaN."""
    base, raw = np.repeat(SPECIAL, 8).tobytes(), np.tile(SPECIAL, 8).tobytes()
    assert DELTA.decode(encode(raw, base, element), len(raw), base) == raw


def test_small_steps_make_a_small_delta() -> None:
    """A delta to weights that moved by 2e-4 of their size takes less than half of their bytes."""
    base, tuned = trained(100_000)
    assert len(encode(tuned, base, F32)) < 0.5 * len(tuned)


def test_equal_changes_of_unequal_weights_have_like_tokens() -> None:
    """The example of the module: steps of 84 to 85,899 floats leave tokens of 83 or 84."""
    base = np.array([1.0, -0.5, 0.001], "<f4").tobytes()
    new = np.array([1.00001, -0.50001, 0.00101], "<f4").tobytes()
    steps = np.frombuffer(differ(new, base, 4, 8, b"")[0], "<u4")
    assert steps.tolist() == [168, 336, 171798]
    assert encode(new, base, F32).endswith(bytes([84, 84, 83]))


def test_what_is_equal_takes_nothing() -> None:
    """A tensor that did not move is a few bytes."""
    base, _ = trained(100_000)
    assert len(encode(base, base, F32)) < 150


def test_blocks_without_a_step_take_nothing() -> None:
    """Where only some rows moved, the others are not stored."""
    base, tuned = trained(100_000)
    some = tuned[:40_000] + base[40_000:]
    assert len(encode(some, base, F32)) < 0.12 * len(tuned)


def test_decay_alone_takes_next_to_nothing() -> None:
    """The steps of weight decay are predicted by a table, and not stored word by word."""
    base, decayed = trained(100_000, decay=1e-5, noise=0)
    assert encode(decayed, base, F32)[2] > 0
    assert len(encode(decayed, base, F32)) < 0.05 * len(decayed)


def test_steps_below_a_bit_share_bytes() -> None:
    """In BF16 most weights do not move, and a weight takes less than a bit."""
    wide = [np.frombuffer(weights, "<u4") for weights in trained(100_000, noise=2e-5)]
    base, tuned = ((words + 0x8000 >> 16).astype("<u2").tobytes() for words in wide)
    assert base != tuned
    assert len(encode(tuned, base, BF16)) < 100_000 / 8


def test_a_longer_tensor_is_a_delta_to_its_beginning() -> None:
    """A shorter base goes on with zeros, and the end of a longer one is ignored."""
    base, tuned = trained(5000)
    longer = encode(tuned, base[:8002], F32)
    assert DELTA.decode(longer, len(tuned), base[:8002]) == tuned
    assert DELTA.decode(longer, len(tuned), base[:8002] + bytes(20_000)) == tuned
    assert encode(tuned, base + b"more", F32) == encode(tuned, base, F32)


@pytest.mark.parametrize("element", [F32, BF16, element_of("I64"), element_of("U8")])
def test_a_delta_cut_anywhere_is_refused(element: Element) -> None:
    """A payload that ends too early or too late is refused."""
    base, tuned = trained(700, decay=1e-3)
    payload = encode(tuned, base, element)
    for stop in range(len(payload)):
        with pytest.raises(ValueError, match=r"."):
            DELTA.decode(payload[:stop], len(tuned), base)
    with pytest.raises(ValueError, match="in"):
        DELTA.decode(payload + b"x", len(tuned), base)


@given(data=st.data())
def test_damage_gives_another_content_or_is_refused(data: st.DataObject) -> None:
    """A payload with any changed bytes is refused, or decodes to as many bytes as asked for."""
    base, tuned = trained(700, decay=1e-3)
    payload = bytearray(encode(tuned, base, data.draw(elements)))
    for place in data.draw(st.lists(st.integers(0, len(payload) - 1), min_size=1, max_size=4)):
        payload[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        assert len(DELTA.decode(bytes(payload), len(tuned), base)) == len(tuned)


@given(junk=st.binary(max_size=64), size=st.integers(0, 64), source=st.binary(max_size=64))
def test_junk_is_refused(junk: bytes, size: int, source: bytes) -> None:
    """Any bytes are a delta or are refused."""
    with contextlib.suppress(ValueError):
        assert len(DELTA.decode(junk, size, source)) == size


def test_another_size_or_base_is_refused() -> None:
    """Streams longer or shorter than the base and the size need are refused."""
    base, tuned = trained(700)
    payload = encode(tuned, base, F32)
    for size in (0, 4, 2796, 2804, 1 << 20):
        with pytest.raises(ValueError, match=r"."):
            DELTA.decode(payload, size, base)
    with pytest.raises(ValueError, match="asks for"):
        DELTA.decode(payload, len(tuned), base[1400:] + bytes(1400))
