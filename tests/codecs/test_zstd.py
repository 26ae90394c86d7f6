"""One Zstandard frame for each chunk: its size is checked before and after it is decoded."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier, get_ident
from typing import Final

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from modelfs.codecs.zstd import LEVEL, Zstd
from tests.support.stores import noise

TEXT: Final = b"some text, " * 20
SIZE: Final = len(TEXT)
CODEC: Final = Zstd()
# RFC 8878, 3.1.1: the magic number, a descriptor of the header, and the content size in one byte.
SIZE_AT: Final = 5


def test_a_frame_has_its_size_and_no_checksum() -> None:
    """The stored form is one frame with the size of its content; the chunk record has checksums."""
    parameters = zstandard.get_frame_parameters(CODEC.encode(TEXT))
    assert (parameters.content_size, parameters.has_checksum, parameters.dict_id) == (
        SIZE,
        False,
        0,
    )


def test_zstd_makes_text_smaller() -> None:
    """Repetitive bytes take less room than they are."""
    raw = b"some text, " * 1000
    assert len(CODEC.encode(raw)) < len(raw) // 10


@given(st.binary(max_size=300))
def test_a_view_is_as_good_as_bytes(raw: bytes) -> None:
    """A part of another buffer is encoded and decoded, and the result is bytes."""
    stored = CODEC.encode(memoryview(b"x" + raw)[1:])
    assert stored == CODEC.encode(raw)
    decoded = CODEC.decode(memoryview(b"x" + stored)[1:], len(raw))
    assert type(decoded) is bytes
    assert decoded == raw


def test_the_level_is_that_of_the_compressor() -> None:
    """A codec with a compressor of its own makes frames with it, which any codec decodes."""
    words = noise(50_000)
    raw = bytes(words[number * number % len(words)] for number in range(20_000)) * 3
    thorough = Zstd(partial(zstandard.ZstdCompressor, level=19))
    assert CODEC.encode(raw) == zstandard.ZstdCompressor(level=LEVEL).compress(raw)
    assert thorough.encode(raw) == zstandard.ZstdCompressor(level=19).compress(raw)
    assert thorough.encode(raw) != CODEC.encode(raw)
    assert CODEC.decode(thorough.encode(raw), len(raw)) == raw


def test_each_thread_has_its_compressor() -> None:
    """Threads that encode at the same time use one compressor each, and make it once."""
    made: list[int] = []

    def new() -> zstandard.ZstdCompressor:
        made.append(get_ident())
        return zstandard.ZstdCompressor()

    codec, together = Zstd(new), Barrier(4)

    def work(number: int) -> bool:
        together.wait()  # so that no thread does the work of two
        raw = noise(1000, number) * 20
        return all(codec.decode(codec.encode(raw), len(raw)) == raw for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert len(made) == len(set(made)) == 4


# -- hostile input


def claim(size: int) -> bytes:
    """Return the frame of the text with another size of its content in the header."""
    stored = bytearray(CODEC.encode(TEXT))
    assert stored[SIZE_AT] == SIZE
    stored[SIZE_AT] = size
    return bytes(stored)


@pytest.mark.parametrize("size", [1, SIZE - 1, SIZE + 1, 255])
def test_a_frame_with_a_wrong_size(size: int) -> None:
    """Of a frame whose header claims another size than its blocks have, nothing is returned."""
    for wanted in (size, SIZE):
        with pytest.raises(ValueError, match=r"."):
            CODEC.decode(claim(size), wanted)


def test_a_frame_that_claims_much_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of another size than the chunk's is refused before anything decodes it."""

    def decoded(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("modelfs.codecs.zstd.zstandard.ZstdDecompressor", decoded)
    huge = b"\x28\xb5\x2f\xfd\xe0" + (1 << 50).to_bytes(8, "little") + b"\x01\0\0"
    assert zstandard.frame_content_size(huge) == 1 << 50
    for size in (0, SIZE, 1 << 20):
        with pytest.raises(ValueError, match=rf"^a frame of {1 << 50} bytes for a chunk of {size}"):
            Zstd().decode(huge, size)


def streamed(raw: bytes) -> bytes:
    """Return a frame without the size of its content."""
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(raw) + stream.flush()


FOREIGN: Final[dict[str, Callable[[], bytes]]] = {
    "no size": lambda: streamed(TEXT),
    "two frames": lambda: CODEC.encode(TEXT[:100]) + CODEC.encode(TEXT[100:]),
    "a frame behind it": lambda: CODEC.encode(TEXT) + CODEC.encode(b""),
    "a byte behind it": lambda: CODEC.encode(TEXT) + b"\0",
    "a byte before it": lambda: b"\0" + CODEC.encode(TEXT),
    "a skippable frame": lambda: b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip",
    "a skippable frame before it": lambda: (
        b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip" + CODEC.encode(TEXT)
    ),
    "a dictionary": lambda: zstandard.ZstdCompressor(
        dict_data=zstandard.ZstdCompressionDict(b"some text, and more of it")
    ).compress(TEXT),
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("stored", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("size", [SIZE, 0])
def test_what_is_not_one_frame_is_refused(stored: Callable[[], bytes], size: int) -> None:
    """A chunk is one frame with its size, with nothing before or behind it: no other form."""
    with pytest.raises(ValueError, match=r"."):
        CODEC.decode(stored(), size)


@given(st.data())
def test_damage_does_no_harm(data: st.DataObject) -> None:
    """A frame with changed bytes is refused, or decodes to as many bytes as asked for."""
    raw = noise(50) * 20 + noise(100, 1)
    stored = bytearray(CODEC.encode(raw))
    for _ in range(data.draw(st.integers(1, 3))):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert len(CODEC.decode(bytes(stored), len(raw))) == len(raw)
    except ValueError as exc:
        assert str(exc)  # noqa: PT017 - either is right
