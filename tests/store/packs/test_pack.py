"""Packs: their layout, and the effects of every accident."""

import os
import struct
import tracemalloc
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptPack
from modelfs.store.disk.directory import Directory
from modelfs.store.disk.space import Space
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.tables import ChunkId, PackId
from modelfs.store.packs import pack as pack_module
from modelfs.store.packs.header import pack_name
from modelfs.store.packs.pack import Packs, Tail
from modelfs.store.packs.segment import ALIGN_FROM, PAGE, Entry, Segment
from tests.support.paths import STORE_GOLDEN
from tests.support.segments import segment_of
from tests.support.stores import noise

UUID = bytes(range(16))
ONE = PackId(1)


def new_packs(folder: Path) -> Packs:
    folder.mkdir(exist_ok=True)
    packs = Packs(Directory(folder), UUID, Space(folder))
    packs.open_at(None, ONE)
    return packs


@pytest.fixture
def packs(tmp_path: Path) -> Packs:
    return new_packs(tmp_path / "packs")


def path_of(packs: Packs, pack: int = 1) -> Path:
    return packs.directory.path / pack_name(pack)


# -- the layout


@given(sizes=st.lists(st.sampled_from([1, 100, 4096, ALIGN_FROM - 1, ALIGN_FROM]), min_size=1))
def test_appended_chunks_are_read(
    sizes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Chunks of any size are read back; large ones start at a page."""
    packs = new_packs(tmp_path_factory.mktemp("packs"))
    contents = [noise(size, seed) for seed, size in enumerate(sizes)]
    half = len(contents) // 2
    placed: list[Entry] = []
    tail = None
    for part, first in ((contents[:half], 1), (contents[half:], half + 1)):
        if part:
            entries, tail = packs.append(segment_of(*part, first=first))
            placed += entries
    packs.flush()
    assert tail is not None
    assert [packs.read(ONE, entry.offset, entry.stored) for entry in placed] == contents
    assert list(packs.entries(ONE, tail.stop)) == placed
    assert all(entry.offset % PAGE == 0 for entry in placed if entry.stored >= ALIGN_FROM)
    stops = [PAGE, *(entry.offset + entry.stored for entry in placed), tail.stop]
    starts = [*(entry.offset for entry in placed), tail.stop]
    assert all(stop <= start for stop, start in zip(stops, starts, strict=False))
    assert path_of(packs).stat().st_size == tail.stop
    assert tail.stop % PAGE == 0
    packs.close()


def golden_segment() -> Segment:
    segment = segment_of(b"plain bytes", bytes(range(100)))
    segment.add(ChunkId(1 << 40), ChunkKind.CODED, CodecId.ZSTD, 1 << 20, b"not really zstd")
    return segment


def test_old_packs_stay_readable(tmp_path: Path) -> None:
    """The layout is pinned: header, table, places and checksums."""
    golden = (STORE_GOLDEN / "one.pack").read_bytes()
    path = tmp_path / pack_name(1)
    path.write_bytes(golden)
    packs = Packs(Directory(tmp_path), UUID, Space(tmp_path), read_only=True)
    entries = list(packs.entries(ONE, len(golden)))
    assert [packs.read(ONE, entry.offset, entry.stored) for entry in entries] == [
        b"plain bytes",
        bytes(range(100)),
        b"not really zstd",
    ]
    assert entries[2] == Entry(
        chunk=ChunkId(1 << 40),
        offset=entries[1].offset + 100,
        stored=15,
        size=1 << 20,
        kind=ChunkKind.CODED,
        codec=CodecId.ZSTD,
        checksum=entries[2].checksum,
    )
    packs.close()


@pytest.mark.parametrize("at", [24 + 24, 24 + 25], ids=["kind", "codec"])
def test_an_unknown_form_is_corrupt(packs: Packs, at: int) -> None:
    """A segment of a later version with a right checksum is refused."""
    _, tail = packs.append(segment_of(b"plain"))
    content = bytearray(path_of(packs).read_bytes())
    content[PAGE + at] = 99
    head, table = content[PAGE : PAGE + 16], content[PAGE + 24 : PAGE + 64]
    content[PAGE + 16 : PAGE + 24] = xxhash.xxh3_64_intdigest(head + table).to_bytes(8, "little")
    path_of(packs).write_bytes(content)
    with pytest.raises(CorruptPack, match="99"):
        list(packs.entries(ONE, tail.stop))


def test_a_long_table_is_not_read(packs: Packs) -> None:
    """A damaged count costs no memory, however large the committed end is."""
    packs.append(segment_of(b"plain"))
    stop, count = 1 << 40, 1 << 31
    with path_of(packs).open("r+b") as file:
        file.seek(PAGE + 4)
        file.write(struct.pack("<IQ", count, stop - PAGE))
    os.truncate(path_of(packs), stop)
    with pytest.raises(CorruptPack, match="table too long"):
        list(packs.entries(ONE, stop))


@pytest.mark.parametrize("size", [1 << 32, 1 << 60, 1 << 63])
def test_a_read_past_the_end_takes_no_memory(packs: Packs, size: int) -> None:
    """A read of more bytes than a pack has costs no memory."""
    packs.append(segment_of(b"plain"))
    tracemalloc.start()
    try:
        for offset, length in ((PAGE, size), (size, 1)):
            with pytest.raises(CorruptPack, match="inside a chunk"):
                packs.read(ONE, offset, length)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_packs_are_written_as_they_were(packs: Packs) -> None:
    """The same chunks give the same bytes in every version."""
    packs.append(golden_segment())
    assert path_of(packs).read_bytes() == (STORE_GOLDEN / "one.pack").read_bytes()


def test_packs_are_sealed_when_full(packs: Packs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that does not fit begins the next pack, and so does one after `seal`."""
    monkeypatch.setattr(pack_module, "PACK_SIZE", 64 << 10)
    tails = [packs.append(segment_of(noise(16 << 10)))[1] for _ in range(5)]
    assert [tail.pack for tail in tails] == [1, 1, 2, 2, 3]
    packs.seal(PackId(1))
    assert packs.append(segment_of(b"x"))[1].pack == 3
    packs.seal(PackId(3))
    assert packs.append(segment_of(b"x"))[1].pack == 4
    assert packs.numbers() == {1, 2, 3, 4}


def test_short_writes_are_continued(packs: Packs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short write of the kernel is continued until all bytes are written."""

    def few(fd: int, buffers: list[memoryview], offset: int) -> int:
        return os.pwrite(fd, buffers[0][:1000], offset)

    contents = [noise(5000, 1), noise(10, 2)]
    monkeypatch.setattr(os, "pwritev", few)
    entries, _ = packs.append(segment_of(*contents))
    assert [packs.read(ONE, entry.offset, entry.stored) for entry in entries] == contents


# -- accidents


def test_a_pack_cut_anywhere_is_read_up_to_the_cut(packs: Packs) -> None:
    """Tables of a pack cut at any byte are read up to there or refused."""
    entries, tail = packs.append(segment_of(noise(30, 1), noise(200, 2)))
    more, last = packs.append(segment_of(noise(50, 3), first=3))
    whole = path_of(packs).read_bytes()
    content = {entry.chunk: packs.read(ONE, entry.offset, entry.stored) for entry in entries + more}
    for size in range(len(whole)):
        os.truncate(path_of(packs), size)
        try:
            entries_read = list(packs.entries(ONE, last.stop))
        except CorruptPack:
            continue
        assert entries_read == entries + more
        for entry in entries_read:
            if entry.offset + entry.stored <= size:
                assert packs.read(ONE, entry.offset, entry.stored) == content[entry.chunk]
            else:
                with pytest.raises(CorruptPack):
                    packs.read(ONE, entry.offset, entry.stored)
    os.truncate(path_of(packs), 0)
    path_of(packs).write_bytes(whole)
    assert list(packs.entries(ONE, tail.stop)) == entries


def test_any_damaged_byte_of_a_header_or_table_is_seen(packs: Packs) -> None:
    """A flipped bit in a header or table is damage; in padding it has no effect."""
    entries, _ = packs.append(segment_of(b"one", b"two"))
    more, tail = packs.append(segment_of(b"three", first=3))
    whole = path_of(packs).read_bytes()
    described = [*range(40), *range(PAGE, PAGE + 24 + 80)]
    for bit in range(8):
        for at in described:
            flipped = bytes([whole[at] ^ 1 << bit])
            path_of(packs).write_bytes(whole[:at] + flipped + whole[at + 1 :])
            with pytest.raises(CorruptPack):
                list(packs.entries(ONE, tail.stop))
    path_of(packs).write_bytes(whole[:100] + b"\1" + whole[101:])
    assert list(packs.entries(ONE, tail.stop)) == entries + more


def test_another_packs_file_is_refused(packs: Packs, tmp_path: Path) -> None:
    """The file of another pack, or of another store, is refused."""
    packs.append(segment_of(b"x"))
    path_of(packs).rename(path_of(packs, 2))
    packs.close()
    with pytest.raises(CorruptPack):
        packs.check_header(PackId(2))
    other = Packs(packs.directory, bytes(16), Space(packs.directory.path))
    path_of(packs, 2).rename(path_of(packs))
    with pytest.raises(CorruptPack):
        other.check_header(ONE)


def test_a_missing_pack_is_damage(packs: Packs) -> None:
    """Reading or opening a missing pack raises."""
    with pytest.raises(CorruptPack):
        packs.read(ONE, 0, 1)
    assert not packs.reaches(Tail(ONE, PAGE))


def test_a_failed_append_leaves_room_for_another(
    packs: Packs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error in the middle of a segment, the next one takes its place."""
    _, tail = packs.append(segment_of(b"kept"))
    packs.flush()
    packs.published()

    def full(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset > tail.stop:
            raise OSError(28, "no space")
        return os.pwrite(fd, buffers[0][:10], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        with pytest.raises(OSError, match="no space"):
            packs.append(segment_of(b"lost"))
    packs.roll_back(tail)
    entries, last = packs.append(segment_of(b"next", first=2))
    assert packs.read(ONE, entries[0].offset, 4) == b"next"
    assert [entry.chunk for entry in packs.entries(ONE, last.stop)] == [1, 2]


def test_a_pack_that_could_not_be_made_can_be_made_later(
    packs: Packs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that was full when a pack began does not block later packs."""

    def full(fd: int, buffers: list[memoryview], offset: int) -> int:
        raise OSError(28, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        with pytest.raises(OSError, match="no space"):
            packs.append(segment_of(b"lost"))
    packs.roll_back(None)
    assert packs.numbers() == set()
    entries, tail = packs.append(segment_of(b"next"))
    assert packs.read(tail.pack, entries[0].offset, 4) == b"next"


def test_rolling_back_removes_unpublished_segments(
    packs: Packs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unpublished segments are removed, and the packs that were begun for them."""
    monkeypatch.setattr(pack_module, "PACK_SIZE", 32 << 10)
    _, tail = packs.append(segment_of(noise(4096)))
    packs.flush()
    packs.published()
    for _ in range(3):
        packs.append(segment_of(noise(8192)))
    assert len(packs.numbers()) > 1
    packs.roll_back(tail)
    assert packs.numbers() == {tail.pack}
    assert path_of(packs).stat().st_size == tail.stop
    packs.flush()
    entries, last = packs.append(segment_of(b"next", first=2))
    assert packs.read(last.pack, entries[0].offset, 4) == b"next"


def test_recovery_goes_on_at_the_tail(packs: Packs) -> None:
    """Opening cuts off the bytes behind the committed tail."""
    entries, tail = packs.append(segment_of(b"kept"))
    packs.append(segment_of(b"never committed", first=2))
    packs.close()
    again = new_packs(packs.directory.path)
    assert again.reaches(tail)
    again.truncate(tail)
    again.open_at(tail, PackId(2))
    assert path_of(packs).stat().st_size == tail.stop
    more, last = again.append(segment_of(b"next", first=2))
    assert list(again.entries(ONE, last.stop)) == entries + more
    assert not again.reaches(Tail(ONE, last.stop + 1))


def test_a_removed_pack_stays_readable_to_its_readers(packs: Packs) -> None:
    """A reader with a pack's descriptor reads on after the file is deleted."""
    entries, tail = packs.append(segment_of(b"content"))
    file = packs.descriptor(tail.pack)
    packs.remove(tail.pack)
    assert os.pread(file.fd, 7, entries[0].offset) == b"content"
    assert packs.numbers() == set()
