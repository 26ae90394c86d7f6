"""Stored bytes: reads that follow moves, and verification."""

import os
import time
from pathlib import Path

import pytest

from modelfs.errors import CorruptChunk
from modelfs.store.chunks.verified import TRUST_SECONDS
from modelfs.store.index.tables import ChunkId
from modelfs.store.store import Store
from tests.support.derived_chunks import chunk_at, spoil
from tests.support.put_chunks import TEXT, put
from tests.support.run_jobs import drain
from tests.support.stores import CHUNK, content_of, noise, overwrite, pack_path, stored_file


def move(store: Store, chunk: ChunkId) -> None:
    """Copy a chunk's stored bytes to a new pack."""
    record = store.chunks.record(chunk)
    store.packs.seal(record.pack)
    writer = store.writer()
    writer.copy(chunk, record, store.stored_bytes.read(chunk, record))
    drain(store.publish(writer.finish()))


@pytest.mark.parametrize("content", [noise(CHUNK), TEXT], ids=["plain", "coded"])
def test_a_read_follows_a_chunk_that_moved(opened: Store, content: bytes) -> None:
    """A read by an old record, whose pack is gone, reads from the new place."""
    (chunk,) = put(opened, content, compress=True)
    inode = stored_file(opened, b"f", content)
    old = opened.chunks.record(chunk)
    move(opened, chunk)
    drain(opened.reclaimer.retire_empty_packs())
    opened.commit()
    opened.cache.forget(chunk)
    reader = opened.chunk_reader
    assert reader.read(chunk, old) == content
    into = bytearray(50)
    reader.stored.distrust(old)
    reader.read_into(chunk, old, 7, memoryview(into))
    assert into == content[7:57]
    with pytest.raises(CorruptChunk):
        reader.read_uncached(chunk, old)
    assert content_of(opened, inode) == content


def test_damage_at_the_present_place_is_an_error(opened: Store) -> None:
    """A read whose record is the present one fails once, and looks no further."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    chunk = chunk_at(opened, inode)
    spoil(opened, chunk)
    with pytest.raises(CorruptChunk, match="do not match their checksum"):
        content_of(opened, inode)
    stored_file(opened, b"good", noise(CHUNK))
    assert content_of(opened, inode) == noise(CHUNK)


def test_verified_bytes_are_checked_again_after_a_while(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain bytes that rot after their verification are an error once that has expired."""
    inode = stored_file(opened, b"f", noise(CHUNK))
    chunk = chunk_at(opened, inode)
    record = opened.chunks.record(chunk)
    assert content_of(opened, inode) == noise(CHUNK)
    assert opened.chunk_reader.is_ready(chunk, record)
    path = pack_path(opened.packs, record.pack)
    overwrite(path, record.offset, bytes([noise(CHUNK)[0] ^ 1]))
    later = time.monotonic() + TRUST_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert not opened.chunk_reader.is_ready(chunk, record)
    with pytest.raises(CorruptChunk):
        content_of(opened, inode)
    overwrite(path, record.offset, noise(CHUNK)[:1])
    assert content_of(opened, inode) == noise(CHUNK)


def test_the_file_of_a_verified_chunk(opened: Store, tmp_path: Path) -> None:
    """Only a verified chunk is read straight from its pack, and only if the pack is there."""
    stored = opened.stored_bytes
    chunk = chunk_at(opened, stored_file(opened, b"f", noise(CHUNK)))
    record = opened.chunks.record(chunk)
    stored.distrust(record)
    assert stored.verified_file(record) is None
    stored.verify(chunk, record)
    file = stored.verified_file(record)
    assert file is not None
    assert os.pread(file.fd, CHUNK, record.offset) == noise(CHUNK)
    path = pack_path(opened.packs, record.pack)
    path.rename(tmp_path / "aside")
    opened.packs.close()
    assert stored.verified_file(record) is None
    (tmp_path / "aside").rename(path)
