"""What every codec in the table promises, and the stored bytes of each, pinned."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.codecs import CODECS, DERIVATIONS, GENERAL
from modelfs.codecs.base import Codec, CodecId, GeneralCodec
from tests.support.paths import CODECS_GOLDEN

general = pytest.mark.parametrize("codec", GENERAL.values(), ids=[n.name for n in GENERAL])
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=[n.name for n in CODECS])


def test_every_number_has_a_codec() -> None:
    """A number that decodes as a `CodecId` is a codec's below 16, else a derivation's."""
    assert set(CODECS) == {number for number in CodecId if number < 16}
    assert all(number >= 16 for number in DERIVATIONS)


@general
@given(raw=st.binary(max_size=4096), times=st.sampled_from([1, 50]))
def test_decode_undoes_encode(codec: GeneralCodec, raw: bytes, times: int) -> None:
    """What goes in comes out, for any bytes and for repetitive ones."""
    raw *= times
    assert codec.decode(codec.encode(raw), len(raw)) == raw


@every_codec
@given(junk=st.binary(max_size=64), size=st.integers(0, 64))
def test_junk_is_refused(codec: Codec, junk: bytes, size: int) -> None:
    """Damaged bytes give ValueError or `size` bytes: no other error, no other length."""
    with contextlib.suppress(ValueError):
        assert len(codec.decode(junk, size)) == size


@general
def test_stored_bytes_cut_anywhere_are_refused(codec: GeneralCodec) -> None:
    """Of a stored form that ends too early, nothing is returned."""
    raw = b"some text, " * 20
    stored = codec.encode(raw)
    for stop in range(len(stored)):
        with pytest.raises(ValueError, match=r"."):
            codec.decode(stored[:stop], len(raw))


@general
@pytest.mark.parametrize("size", [0, 219, 221, 1 << 40])
def test_another_size_is_refused(codec: GeneralCodec, size: int) -> None:
    """A stored form decodes to the size it was made from, and to no other."""
    stored = codec.encode(b"some text, " * 20)
    with pytest.raises(ValueError, match="220"):
        codec.decode(stored, size)


@pytest.mark.parametrize("number", CODECS, ids=lambda number: number.name)
def test_old_stores_stay_readable(number: CodecId) -> None:
    """The stored form is pinned. A missing file means: new codec, add its golden pair."""
    raw = (CODECS_GOLDEN / f"{number.name}.raw").read_bytes()
    stored = (CODECS_GOLDEN / f"{number.name}.stored").read_bytes()
    assert CODECS[number].decode(stored, len(raw)) == raw


@pytest.mark.parametrize("number", DERIVATIONS, ids=lambda number: number.name)
def test_old_derivations_stay_readable(number: CodecId) -> None:
    """The payload of each is pinned, with a source."""
    raw, stored, source = (
        (CODECS_GOLDEN / f"{number.name}.{kind}").read_bytes()
        for kind in ("raw", "stored", "source")
    )
    assert DERIVATIONS[number].decode(stored, len(raw), source) == raw
