"""Writing chunks: equal content is shared, and only equal content; good copies heal."""

import dataclasses
import errno

import pytest

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptChunk
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key
from modelfs.store.packs import pack as pack_module
from modelfs.store.packs import segment as segment_module
from modelfs.store.store import Store
from tests.support.derived_chunks import HALF, chunk_at, pair, spoil
from tests.support.put_chunks import TEXT, load, put
from tests.support.run_jobs import collect, drain, ingest_all
from tests.support.stores import (
    CHUNK,
    Box,
    content_of,
    new_file,
    noise,
    overwrite,
    pack_path,
    stored_file,
)


@pytest.fixture
def colliding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give all contents the same hash."""
    monkeypatch.setattr(ChunkTable, "digest", lambda self, content: bytes(16))


def test_equal_content_is_one_chunk(opened: Store) -> None:
    """Equal content is found in the same segment, in the same writer and in the store."""
    writer = opened.writer()
    first = writer.put(noise(100), compress=False)
    assert writer.put(noise(100), compress=False) == first
    drain(opened.publish(writer.finish()))
    assert put(opened, noise(100), noise(101)) == [first, first + 1]


def test_segments_are_written_as_they_fill(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content in a written but unpublished segment is shared, too."""
    monkeypatch.setattr(segment_module, "SEGMENT_SIZE", 5000)
    contents = [noise(1000, seed) for seed in range(20)] + [TEXT]
    writer = opened.writer()
    chunks = [writer.put(content, compress=True) for content in contents]
    assert [writer.put(content, compress=True) for content in contents] == chunks
    assert len(set(chunks)) == len(contents)
    drain(opened.publish(writer.finish()))
    assert [load(opened, chunk) for chunk in chunks] == contents


@pytest.mark.usefixtures("colliding")
def test_a_collision_never_gives_other_content(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With equal hashes, different contents are still different chunks."""
    monkeypatch.setattr(segment_module, "SEGMENT_SIZE", 250)
    contents = [noise(100, seed) for seed in range(6)]
    chunks = put(opened, *contents, *contents)
    assert chunks[:6] == chunks[6:]
    assert put(opened, *reversed(contents)) == chunks[5::-1]
    assert [load(opened, chunk) for chunk in chunks[:6]] == contents
    drain(opened.reclaimer.remove_dead())
    assert list(opened.chunks.with_digest(bytes(16))) == []


@pytest.mark.usefixtures("colliding")
def test_files_with_colliding_chunks_keep_their_bytes(opened: Store) -> None:
    """The same holds for whole files, also after gc."""
    contents = [noise(3 * CHUNK, seed) for seed in range(3)]
    inodes = [stored_file(opened, b"%d" % n, data) for n, data in enumerate(contents)]
    opened.writes.truncate(inodes[1], 0)
    ingest_all(opened)
    collect(opened)
    assert content_of(opened, inodes[0]) == contents[0]
    assert content_of(opened, inodes[2]) == contents[2]


def test_text_is_coded_and_tensors_are_not(opened: Store) -> None:
    """Only content that is no tensor and becomes smaller is compressed."""
    text, tensor, random = (
        *put(opened, TEXT, compress=True),
        *put(opened, TEXT + b"!", compress=False),
        *put(opened, noise(1000), compress=True),
    )
    record = opened.chunks.record(text)
    assert (record.kind, record.codec) == (ChunkKind.CODED, CodecId.ZSTD)
    assert record.stored < record.size == len(TEXT)
    for chunk in (tensor, random):
        assert opened.chunks.record(chunk).kind is ChunkKind.PLAIN
    assert load(opened, text) == TEXT


@pytest.mark.parametrize("content", [noise(CHUNK), TEXT], ids=["plain", "coded"])
def test_a_damaged_chunk_is_healed_by_a_good_copy(opened: Store, content: bytes) -> None:
    """Content written again replaces its damaged chunk, for all files that share it."""
    inode = stored_file(opened, b"f", content)
    (extent,) = opened.maps.within(inode, 0, len(content))
    before = opened.chunks.record(extent.chunk)
    path = pack_path(opened.packs, before.pack)
    damage = bytes([path.read_bytes()[before.offset] ^ 1])
    overwrite(path, before.offset, damage)
    again = new_file(opened, b"g", content)
    ingest_all(opened)
    after = opened.chunks.record(extent.chunk)
    assert (after.pack, after.offset) != (before.pack, before.offset)
    assert after.refs == 2
    assert content_of(opened, inode) == content_of(opened, again) == content


def test_an_unreadable_chunk_is_healed_by_a_good_copy(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO at reading a chunk to compare with does not stop a writer."""
    inode = stored_file(opened, b"f", noise(100))

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(opened.packs, "read", broken)
        again = stored_file(opened, b"g", noise(100))
        other = stored_file(opened, b"h", noise(100, 1))
    (one,) = opened.maps.within(inode, 0, 100)
    (two,) = opened.maps.within(again, 0, 100)
    assert one.chunk == two.chunk
    assert content_of(opened, inode) == content_of(opened, again) == noise(100)
    assert content_of(opened, other) == noise(100, 1)


def test_a_damaged_chunk_is_not_healed_by_other_content(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collision with a damaged chunk gets a chunk of its own."""
    digest = opened.chunks.digest(noise(100))
    monkeypatch.setattr(ChunkTable, "digest", lambda self, content: digest)
    inode = stored_file(opened, b"f", noise(100))
    (extent,) = opened.maps.within(inode, 0, 100)
    record = opened.chunks.record(extent.chunk)
    path = pack_path(opened.packs, record.pack)
    overwrite(path, record.offset, bytes([noise(100)[0] ^ 1]))
    other = stored_file(opened, b"g", noise(100, 1))
    assert content_of(opened, other) == noise(100, 1)
    overwrite(path, record.offset, noise(100)[:1])
    assert content_of(opened, inode) == noise(100)
    monkeypatch.undo()
    opened.writes.truncate(other, 0)
    ingest_all(opened)
    collect(opened)


def test_a_rolled_back_writer_leaves_nothing(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunk numbers of a failed writer are used again, with the right content."""
    monkeypatch.setattr(segment_module, "SEGMENT_SIZE", 10)
    writer = opened.writer()
    first = writer.put(TEXT, compress=True)
    assert writer.put(TEXT, compress=True) == first  # compared with the written segment
    opened.roll_back_writer()
    assert opened.packs.numbers() == set()
    other = TEXT.upper()
    assert put(opened, other, compress=True) == [first]
    assert load(opened, first) == other


def test_a_full_disk_stops_a_writer(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error at writing a segment is raised by `put`, and nothing of the segment stays."""
    put(opened, noise(100))
    tail = opened.chunks.pack_row(PackId(1)).stop
    with monkeypatch.context() as patch:
        patch.setattr(pack_module, "write_at", _full)
        writer = opened.writer()
        writer.put(noise(200), compress=False)
        with pytest.raises(OSError, match="space"):
            writer.finish()
        opened.roll_back_writer()
    assert pack_path(opened.packs, 1).stat().st_size == tail
    assert put(opened, noise(300)) == [ChunkId(2)]


def _full(*_: object) -> None:
    raise OSError(28, "no space")


def test_a_damaged_recipe_is_healed(box: Box) -> None:
    """A good copy of a chunk with a damaged recipe is stored plain, for all its files."""
    base_file, part, base, chunk = pair(box.store)
    spoil(box.store, chunk)
    with pytest.raises(CorruptChunk):
        content_of(box.store, part)
    again = stored_file(box.store, b"again", noise(CHUNK)[:HALF])
    assert chunk_at(box.store, again) == chunk
    record = box.store.chunks.record(chunk)
    assert (record.kind, record.refs, record.optimized) == (ChunkKind.PLAIN, 2, False)
    assert (box.store.chunks.record(base).dependants, box.store.chunks.lineage.sources(chunk)) == (
        0,
        [],
    )
    store = box.crash()
    assert content_of(store, part) == noise(CHUNK)[:HALF]
    assert content_of(store, base_file) == noise(CHUNK)


def test_a_chunk_is_healed_though_its_source_is_damaged(opened: Store) -> None:
    """A good copy of a derived chunk removes its sources, and does not heal them."""
    base_file, part, base, _ = pair(opened)
    spoil(opened, base)
    stored_file(opened, b"again", noise(CHUNK)[:HALF])
    assert content_of(opened, part) == noise(CHUNK)[:HALF]
    with pytest.raises(CorruptChunk):
        content_of(opened, base_file)
    stored_file(opened, b"base again", noise(CHUNK))


def test_a_chunk_in_memory_is_compared_on_the_disk(box: Box) -> None:
    """A good copy heals a chunk that is decoded in memory, too: its stored bytes are damaged."""
    text = b"text, again and again. " * 100
    inode = stored_file(box.store, b"f", text)
    chunk = chunk_at(box.store, inode)
    assert content_of(box.store, inode) == text
    spoil(box.store, chunk)
    assert content_of(box.store, inode) == text  # from memory
    again = stored_file(box.store, b"again", text)
    assert chunk_at(box.store, again) == chunk
    box.store.commit()
    store = box.crash()
    assert content_of(store, inode) == content_of(store, again) == text


@pytest.mark.parametrize("is_base_damaged", [True, False])
def test_a_derived_chunk_in_memory_is_compared_on_the_disk(box: Box, is_base_damaged: bool) -> None:
    """So it is if its base is damaged, or its recipe."""
    base_file, part, base, chunk = pair(box.store)
    assert content_of(box.store, part) == noise(CHUNK)[:HALF]
    spoil(box.store, base if is_base_damaged else chunk)
    assert content_of(box.store, part) == noise(CHUNK)[:HALF]  # from memory
    stored_file(box.store, b"again", noise(CHUNK)[:HALF])
    for each in (chunk, base):
        box.store.chunk_reader.forget(each)
    assert content_of(box.store, part) == noise(CHUNK)[:HALF]
    stored_file(box.store, b"base again", noise(CHUNK))
    store = box.crash()
    assert content_of(store, part) == noise(CHUNK)[:HALF]
    assert content_of(store, base_file) == noise(CHUNK)


@pytest.mark.parametrize("data", [noise(CHUNK), b"text, again and again. " * 100], ids=len)
def test_a_chunk_of_format_1_is_healed(opened: Store, data: bytes) -> None:
    """Without a content checksum, a good copy is recognised by its encoded form."""
    inode = stored_file(opened, b"f", data)
    chunk = chunk_at(opened, inode)
    record = dataclasses.replace(opened.chunks.record(chunk), content_checksum=0)
    with opened.index.change():
        opened.index.put(Table.CHUNKS, number_key(chunk), record.to_bytes()[: Chunk.LENGTH_1])
    spoil(opened, chunk)
    again = stored_file(opened, b"again", data)
    assert chunk_at(opened, again) == chunk
    assert opened.chunks.record(chunk).content_checksum
    assert content_of(opened, inode) == data
