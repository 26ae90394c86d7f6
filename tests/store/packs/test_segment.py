"""Segments: their layout in bytes, and tables that are refused."""

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptPack
from modelfs.store.disk.descriptors import IOV_MAX
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.tables import ChunkId
from modelfs.store.packs import segment as segment_module
from modelfs.store.packs.segment import (
    ALIGN_FROM,
    HEAD,
    MAGIC,
    PAGE,
    Segment,
    decode_head,
    decode_table,
)
from tests.support.segments import segment_of
from tests.support.stores import noise


def test_segments_are_full_by_size_or_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment is full by its bytes, or by the most chunks of one write."""
    monkeypatch.setattr(segment_module, "SEGMENT_SIZE", 10)
    assert not segment_of(b"123456789").full
    assert segment_of(b"1234567890").full
    assert segment_of(*[b""] * (IOV_MAX // 2)).full


def test_the_layout_of_the_example() -> None:
    """Large plain chunks begin at pages, side by side; a coded chunk follows without a gap."""
    segment = Segment()
    for number in (7, 8):
        segment.add(ChunkId(number), ChunkKind.PLAIN, CodecId.RAW, 1 << 20, noise(1 << 20, number))
    segment.add(ChunkId(9), ChunkKind.CODED, CodecId.ZSTD, 5000, noise(500))
    entries, buffers, size = segment.layout(PAGE)
    assert [(each.chunk, each.offset) for each in entries] == [
        (7, 2 * PAGE),
        (8, 2 * PAGE + (1 << 20)),
        (9, 2 * PAGE + (2 << 20)),
    ]
    assert size == PAGE + (2 << 20) + PAGE == sum(map(len, buffers))
    assert size <= segment.size_at_most


SIZES = st.sampled_from([0, 1, 499, PAGE - 24 - 40, ALIGN_FROM - 1, ALIGN_FROM, ALIGN_FROM + 1])


@given(
    chunks=st.lists(st.tuples(SIZES, st.booleans()), min_size=1, max_size=9),
    start=st.integers(1, 5).map(lambda page: page * PAGE),
)
def test_entries_are_where_the_bytes_are(chunks: list[tuple[int, bool]], start: int) -> None:
    """A segment decodes to its entries, and the bytes of each lie at its offset."""
    segment = Segment()
    contents = []
    for number, (size, is_plain) in enumerate(chunks, 1):
        kind, codec = (
            (ChunkKind.PLAIN, CodecId.RAW) if is_plain else (ChunkKind.CODED, CodecId.ZSTD)
        )
        contents.append(noise(size, number))
        segment.add(ChunkId(number), kind, codec, size, contents[-1])
    entries, buffers, size = segment.layout(start)
    whole = b"".join(buffers)
    assert len(whole) == size <= segment.size_at_most
    assert size % PAGE == 0
    head = whole[: HEAD.size]
    total, table_size = decode_head(head, size, "here")
    assert total == size
    assert decode_table(head, whole[HEAD.size : HEAD.size + table_size], "here") == entries
    for entry, content in zip(entries, contents, strict=True):
        at = entry.offset - start
        assert whole[at : at + entry.stored] == content
        if entry.kind is ChunkKind.PLAIN and entry.stored >= ALIGN_FROM:
            assert entry.offset % PAGE == 0
        assert entry.checksum == xxhash.xxh3_64_intdigest(content)


@pytest.mark.parametrize(
    ("magic", "count", "size"),
    [
        (b"MSEH", 1, PAGE),
        (MAGIC, 1, 0),
        (MAGIC, 1, 3 * PAGE),
        (MAGIC, 1, PAGE + 1),
        (MAGIC, PAGE // 40 + 1, PAGE),
        (MAGIC, IOV_MAX + 1, 2 * PAGE),
        (MAGIC, (1 << 32) - 1, 2 * PAGE),
    ],
    ids=["magic", "empty", "past the end", "no page", "table", "count", "huge count"],
)
def test_a_head_that_begins_no_segment_is_refused(magic: bytes, count: int, size: int) -> None:
    """A head with wrong magic, size or count is damage, before any more is read."""
    with pytest.raises(CorruptPack, match="here"):
        decode_head(HEAD.pack(magic, count, size, 0), 2 * PAGE, "here")


def test_any_damaged_byte_of_a_table_is_damage() -> None:
    """A flipped bit of the head or the table does not pass the check."""
    _, buffers, _ = segment_of(b"one", b"two").layout(PAGE)
    whole = buffers[0]
    for at in range(len(whole)):
        for bit in (1, 128):
            damaged = whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :]
            with pytest.raises(CorruptPack):
                decode_table(damaged[: HEAD.size], damaged[HEAD.size :], "here")
