"""The records of the index: round trips, junk, and pinned bytes."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptIndex
from modelfs.formats.layout import Format
from modelfs.store.index.chunk_records import OFFSET_END, Chunk, ChunkKind, PackRow
from modelfs.store.index.name_records import Dentry, Listed
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent, Inode, WindowRanges
from modelfs.store.index.superblock import Superblock
from modelfs.store.index.tables import ChunkId, InodeNumber, PackId
from modelfs.store.index.tensor_records import TensorRow
from tests.support.paths import STORE_GOLDEN
from tests.support.record_examples import EXAMPLES, NEWEST

U8 = st.integers(0, (1 << 8) - 1)
U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
I64 = st.integers(-(1 << 63), (1 << 63) - 1)
INODES = st.builds(InodeNumber, U64)
DIGESTS = st.binary(min_size=16, max_size=16)
BOUNDS = st.lists(U64, max_size=8, unique=True).map(sorted)
RECORDS: dict[str, st.SearchStrategy[Any]] = {
    "superblock": st.builds(
        Superblock,
        version=U32,
        chunk_size=st.integers(4096, 1 << 30),
        hash_seed=U64,
        uuid=DIGESTS,
        created_ns=I64,
    ),
    "inode": st.builds(
        Inode,
        inode=st.just(InodeNumber(7)),
        mode=U32,
        uid=U32,
        gid=U32,
        nlink=U32,
        size=U64,
        rdev=U64,
        atime_ns=I64,
        mtime_ns=I64,
        ctime_ns=I64,
        parent=INODES,
        format=st.sampled_from(Format),
        staging_rows=U32,
        mapped=U64,
        xattr_rows=U32,
        tensor_rows=U32,
    ),
    "dentry": st.builds(Dentry, inode=INODES, cookie=U64),
    "listed": st.builds(Listed, inode=INODES, name=st.binary(min_size=1, max_size=255)),
    "extent": st.builds(
        Extent,
        start=st.just(7),
        chunk=st.builds(ChunkId, U64),
        skip=U32,
        length=st.integers(1, (1 << 32) - 1),
    ),
    "chunk": st.builds(
        Chunk,
        kind=st.sampled_from(ChunkKind),
        codec=st.sampled_from(CodecId),
        size=U32,
        pack=st.builds(PackId, U64),
        offset=st.integers(0, OFFSET_END - 1),
        stored=U32,
        refs=U32,
        ref_bytes=U64,
        checksum=U64,
        digest=DIGESTS,
        dependants=U32,
        content_checksum=U64,
        optimized=st.booleans(),
        element=U8,
    ),
    "pack": st.builds(PackRow, stop=U64, live=U64),
    "window": st.builds(
        WindowRanges,
        generation=U64,
        ranges=BOUNDS.map(lambda flat: RangeSet(zip(flat[::2], flat[1::2], strict=False))),
    ),
    "tensor": st.builds(
        TensorRow,
        start=st.just(7),
        size=U64,
        dtype=st.text("ABCF0123", max_size=255),
        shape=st.lists(U64, max_size=4).map(tuple),
        name=st.text(st.characters(), max_size=20),
    ),
}
DECODE: dict[str, Callable[[bytes], object]] = {
    "superblock": Superblock.from_bytes,
    "inode": lambda value: Inode.from_bytes(7, value),
    "dentry": Dentry.from_bytes,
    "listed": Listed.from_bytes,
    "extent": lambda value: Extent.from_bytes(7, value),
    "chunk": Chunk.from_bytes,
    "pack": PackRow.from_bytes,
    "window": WindowRanges.from_bytes,
    "tensor": lambda value: TensorRow.from_bytes(7, value),
}
every_record = pytest.mark.parametrize("kind", RECORDS)


@every_record
@given(data=st.data())
def test_decoding_undoes_encoding(kind: str, data: st.DataObject) -> None:
    """Any record survives encoding and decoding."""
    record = data.draw(RECORDS[kind])
    assert DECODE[kind](record.to_bytes()) == record


@every_record
@given(junk=st.binary(max_size=100))
def test_junk_is_damage(kind: str, junk: bytes) -> None:
    """Any bytes decode to a record that can be encoded, or raise CorruptIndex."""
    try:
        record: Any = DECODE[kind](junk)
    except CorruptIndex:
        return
    assert DECODE[kind](record.to_bytes()) == record


# The bytes that may be missing at the end: a shorter name, or fewer ranges, are valid.
OPEN_ENDED = {"listed": len(b"odel.safetensors"), "tensor": len("layer.0.wéight".encode())}


@every_record
def test_truncation_is_damage(kind: str) -> None:
    """A record cut at any byte does not decode, up to the start of a name."""
    value = EXAMPLES[kind].to_bytes()
    for size in range(len(value) - OPEN_ENDED.get(kind, 0)):
        if kind == "window" and size in (8, 24):
            continue  # fewer ranges, or none, are valid
        if kind == "chunk" and size == Chunk.LENGTH_1:
            continue  # as in format 1
        if kind == "inode" and size == Inode.LENGTH_3:
            continue  # as in formats 1 to 3
        with pytest.raises(CorruptIndex):
            DECODE[kind](value[:size])


@every_record
def test_old_stores_stay_readable(kind: str) -> None:
    """The stored form is pinned, both ways."""
    golden = (STORE_GOLDEN / f"{NEWEST.get(kind, kind)}.record").read_bytes()
    assert DECODE[kind](golden) == EXAMPLES[kind]
    assert EXAMPLES[kind].to_bytes() == golden


def test_formats_never_assigned_are_damage() -> None:
    """An unknown format is refused."""
    inode = bytearray(EXAMPLES["inode"].to_bytes())
    inode[64] = 99
    with pytest.raises(CorruptIndex):
        Inode.from_bytes(7, bytes(inode))


@pytest.mark.parametrize("flat", [(5, 5), (7, 5), (0, 10, 10, 20), (0, 10, 5, 20)])
def test_ranges_out_of_order_are_damage(flat: tuple[int, ...]) -> None:
    """Empty, touching, overlapping or descending ranges are refused."""
    value = b"".join(number.to_bytes(8, "little") for number in (1, *flat))
    with pytest.raises(CorruptIndex):
        WindowRanges.from_bytes(value)


@given(start=st.integers(0, 99), stop=st.integers(0, 200))
def test_a_part_of_an_extent_is_the_same_bytes(start: int, stop: int) -> None:
    """A part of an extent has its place in the chunk."""
    whole = Extent(50, ChunkId(1), 1000, 100)
    start, stop = sorted((start, stop))
    part = whole.part(start, stop)
    low, high = max(start, 50), min(stop, 150)
    if low < high:
        assert (part.start, part.stop) == (low, high)
        assert part.skip - part.start == whole.skip - whole.start
