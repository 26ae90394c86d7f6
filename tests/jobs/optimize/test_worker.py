"""The optimizer's worker, and damage of its input."""

import dataclasses
import errno
import os
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from modelfs.jobs.optimize.backlog import Backlog
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId, Table, number_of, pair_key
from modelfs.store.store import Store
from tests.support.optimized_models import forms, real, remove
from tests.support.run_jobs import optimize
from tests.support.stores import Box, content_of, noise, overwrite, pack_path, stored_file


def test_a_damaged_tensor_stays_as_it_is(wide: Box, caplog: pytest.LogCaptureFixture) -> None:
    """Beside a tensor that cannot be read, the others get their forms."""
    store = wide.store
    inode = stored_file(store, b"base", real("base.safetensors"))
    extent = list(store.maps.overlapping(inode, 0, 1 << 30))[3]
    record = store.chunks.record(extent.chunk)
    good = store.stored_bytes.read(extent.chunk, record)
    overwrite(pack_path(store.packs, record.pack), record.offset, noise(16))
    optimize(store)
    assert "stays as it is" in caplog.text
    caplog.clear()
    assert forms(store) >= {"planes", "plain"}
    now = store.chunks.record(extent.chunk)
    overwrite(pack_path(store.packs, now.pack), now.offset, good[:16])


def test_chunks_of_format_1_get_checksums_of_their_content(wide: Box) -> None:
    """A form that has to be decoded is checked at each decode, however old its chunk is."""
    store = wide.store
    for name in ("base", "finetune"):
        stored_file(store, name.encode(), real(f"{name}.safetensors"))
    with store.index.change():
        for key, value in list(store.index.pages(Table.CHUNKS)):
            store.index.put(Table.CHUNKS, key, value[: Chunk.LENGTH_1])
    optimize(store)
    assert forms(store) >= {"planes", "delta"}
    for key, value in store.index.pages(Table.CHUNKS):
        record, chunk = Chunk.from_bytes(value), ChunkId(number_of(key))
        if record.optimized and record.kind is not ChunkKind.PLAIN:
            content = store.chunk_reader.read(chunk, record)
            assert record.content_checksum == xxh3_64_intdigest(content)


def bad_sector(store: Store, patch: pytest.MonkeyPatch, chunk: ChunkId) -> None:
    """Let reads of a chunk's stored bytes fail with EIO."""
    record = store.chunks.record(chunk)
    bad = os.fspath(pack_path(store.packs, record.pack))

    def check(fd: int, offset: int, size: int) -> None:
        reached = offset < record.offset + record.stored and record.offset < offset + size
        if reached and os.readlink(f"/proc/self/fd/{fd}") == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def pread(fd: int, size: int, offset: int, real: Any = os.pread) -> Any:
        check(fd, offset, size)
        return real(fd, size, offset)

    def preadv(fd: int, into: Any, offset: int, real: Any = os.preadv) -> Any:
        check(fd, offset, sum(map(len, into)))
        return real(fd, into, offset)

    patch.setattr(os, "pread", pread)
    patch.setattr(os, "preadv", preadv)


def test_a_tensor_in_a_bad_sector_stays_as_it_is(
    wide: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside a tensor in a bad sector, the others get their forms, and the file's work ends."""
    store = wide.store
    inode = stored_file(store, b"base", real("base.safetensors"))
    extent = list(store.maps.overlapping(inode, 0, 1 << 30))[3]
    with monkeypatch.context() as patch:
        bad_sector(store, patch, extent.chunk)
        backlog = optimize(store)
    assert "stays as it is" in caplog.text
    caplog.clear()
    assert forms(store) >= {"planes", "plain"}
    assert backlog.status().files == 0
    optimize(store, include_optimized=True)
    assert store.chunks.record(extent.chunk).optimized


def test_a_source_in_a_bad_sector_is_not_used(wide: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk whose source is in a bad sector gets a standalone form."""
    store = wide.store
    base = stored_file(store, b"base", real("base.safetensors"))
    optimize(store)
    extent = list(store.maps.overlapping(base, 0, 1 << 30))[3]
    inode = stored_file(store, b"tuned", real("finetune.safetensors"))
    store = wide.reopen()
    with monkeypatch.context() as patch:
        bad_sector(store, patch, extent.chunk)
        optimize(store)
    assert forms(store) >= {"delta"}
    assert not any(True for _ in store.chunks.lineage.dependants(extent.chunk))
    assert content_of(store, inode) == real("finetune.safetensors")


def test_a_bad_sector_keeps_one_base(
    wide: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A base-only chunk stays if its dependant is in a bad sector; other bases are freed."""
    store = wide.store
    for name in ("base", "finetune"):
        stored_file(store, name.encode(), real(f"{name}.safetensors"))
    optimize(store)
    remove(store, b"base")
    assert Backlog(store).status().base_only_chunks > 1
    chunk = next(
        chunk
        for key, _ in store.index.pages(Table.BASE_ONLY)
        for chunk in store.chunks.lineage.dependants(ChunkId(number_of(key)))
    )
    store = wide.reopen()
    with monkeypatch.context() as patch:
        bad_sector(store, patch, chunk)
        backlog = optimize(store)
    assert "cannot be re-encoded" in caplog.text
    caplog.clear()
    assert backlog.status().base_only_chunks == 1
    assert optimize(store).status().base_only_chunks == 0


def test_an_extent_past_its_chunk_ends_no_run(wide: Box, caplog: pytest.LogCaptureFixture) -> None:
    """A tensor with a wrong extent stays as it is, and the others get their forms."""
    store = wide.store
    inode = stored_file(store, b"base", real("base.safetensors"))
    extent = list(store.maps.overlapping(inode, 0, 1 << 30))[3]
    key = pair_key(inode, extent.start)
    good = store.index.get(Table.EXTENTS, key)
    assert good is not None
    with store.index.change():
        bad = dataclasses.replace(extent, skip=extent.skip + 8)
        store.index.put(Table.EXTENTS, key, bad.to_bytes())
    optimize(store)
    assert "stays as it is" in caplog.text
    caplog.clear()
    assert forms(store) >= {"planes", "plain"}
    with store.index.change():
        store.index.put(Table.EXTENTS, key, good)
