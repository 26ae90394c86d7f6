"""Derived chunks, made as the optimizer makes them."""

import dataclasses
from typing import Final

import xxhash

from modelfs.codecs.base import CodecId
from modelfs.store.chunks.lineage import DEPTH
from modelfs.store.chunks.recipe import Recipe, SourceRun
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ROOT, ChunkId, InodeNumber, Table, number_of
from modelfs.store.store import Store
from tests.support.run_jobs import drain
from tests.support.stores import CHUNK, noise, overwrite, pack_path, stored_file

HALF: Final = CHUNK // 2


def chunk_at(store: Store, inode: InodeNumber, offset: int = 0) -> ChunkId:
    """Return the chunk of one byte of a file."""
    (extent,) = store.maps.overlapping(inode, offset, offset + 1)
    return extent.chunk


def held(store: Store) -> list[ChunkId]:
    """Return the base-only chunks."""
    return [ChunkId(number_of(key)) for key, _ in store.index.pages(Table.BASE_ONLY)]


def gathered(store: Store, chunk: ChunkId) -> Chunk:
    """Return the record of a chunk whose content is gathered from others."""
    record = store.chunks.record(chunk)
    return dataclasses.replace(
        record,
        kind=ChunkKind.DERIVED,
        codec=CodecId.GATHER,
        content_checksum=xxhash.xxh3_64_intdigest(store.chunk_reader.read(chunk, record)),
    )


def recipe_of(*runs: tuple[ChunkId, int, int]) -> Recipe:
    """Return the recipe of a gathered chunk, as (chunk, skip, length) of each run."""
    return Recipe(tuple(SourceRun(*run) for run in runs), b"")


def derive(store: Store, chunk: ChunkId, *runs: tuple[ChunkId, int, int]) -> None:
    """Store a chunk as runs of other chunks."""
    recipe = recipe_of(*runs)
    writer = store.writer()
    writer.replace(chunk, gathered(store, chunk), recipe.to_bytes(), recipe.sources)
    drain(store.publish(writer.finish()))


def derive_if_possible(store: Store, chunk: ChunkId, source: ChunkId) -> bool:
    """Derive a chunk from one that contains its content; return whether that is permitted."""
    find = store.chunks.find
    if chunk == source or not all(map(find, (chunk, source))):
        return False
    content, other = (store.chunk_reader.read_current(each) for each in (chunk, source))
    at = other.find(content)
    lineage = store.chunks.lineage
    if at < 0 or len(recipe_of((source, at, len(content))).to_bytes()) > len(content):
        return False  # as in the optimizer: no form is larger than the plain chunk
    if not lineage.may_derive(chunk, CodecId.GATHER, (source,), find, DEPTH):
        return False
    derive(store, chunk, (source, at, len(content)))
    return True


def halves(store: Store, count: int) -> list[ChunkId]:
    """Return a chunk, and others that contain its content; each in a file of its own."""
    files = [stored_file(store, b"base", noise(CHUNK))]
    for number in range(count):
        part = noise(CHUNK)[number : number + HALF]
        files.append(stored_file(store, b"part%d" % number, part))
    return [chunk_at(store, file) for file in files]


def pair(store: Store) -> tuple[InodeNumber, InodeNumber, ChunkId, ChunkId]:
    """Return a file, one that derives from it, and the chunks of both."""
    base, part = halves(store, 1)
    derive(store, part, (base, 0, HALF))
    names = store.namespace
    store.commit()
    return names.lookup(ROOT, b"base"), names.lookup(ROOT, b"part0"), base, part


def spoil(store: Store, chunk: ChunkId) -> None:
    """Damage the stored bytes of a chunk."""
    record = store.chunks.record(chunk)
    overwrite(pack_path(store.packs, record.pack), record.offset + 5, b"damaged")
    store.stored_bytes.distrust(record)


def remove(store: Store, *names: bytes) -> None:
    """Remove files and their rows."""
    for name in names:
        drain(store.orphans.remove(store.namespace.unlink(ROOT, name)))
