"""The chunk table: one change of a record changes all rows and sums that depend on it."""

import dataclasses

import pytest

from modelfs.errors import CorruptIndex
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.counters import SHARED
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import Table, number_key
from modelfs.store.store import Store
from tests.support.derived_chunks import HALF, chunk_at, derive, held, pair, remove
from tests.support.put_chunks import put
from tests.support.run_jobs import drain
from tests.support.stores import CHUNK, content_of, new_file, noise, stored_file


def test_a_base_only_chunk_is_shared_again(opened: Store) -> None:
    """New content equal to a base-only chunk takes no space."""
    _, _, base, _ = pair(opened)
    remove(opened, b"base")
    assert held(opened) == [base]
    again = stored_file(opened, b"again", noise(CHUNK))
    assert (chunk_at(opened, again), held(opened)) == (base, [])


def test_a_new_recipe_replaces_the_sources(opened: Store) -> None:
    """A new recipe replaces a chunk's sources; a plain form removes them."""
    one, two = noise(CHUNK, 1), noise(CHUNK, 1)[:HALF] + noise(CHUNK, 2)
    chunks = [
        chunk_at(opened, stored_file(opened, content[-8:], content)) for content in (one, two)
    ]
    chunk = chunk_at(opened, stored_file(opened, b"part", one[:HALF]))
    pins = []
    for sources in ((chunks[0],), (chunks[1],), (*chunks,), (chunks[0],)):
        share = HALF // len(sources)
        derive(opened, chunk, *((source, at * share, share) for at, source in enumerate(sources)))
        pins.append(tuple(opened.chunks.record(source).dependants for source in chunks))
    assert pins == [(1, 0), (0, 1), (1, 1), (1, 0)]
    with opened.index.change():
        plain = dataclasses.replace(opened.chunks.record(chunk), kind=ChunkKind.CODED)
        opened.chunks.move(chunk, plain)
        assert opened.chunks.record(chunks[0]).dependants == 0
        assert opened.chunks.lineage.sources(chunk) == []
        derived = dataclasses.replace(plain, kind=ChunkKind.DERIVED)
        opened.chunks.move(chunk, derived, (chunks[0],))


def test_extents_and_chunks_count_the_same(opened: Store) -> None:
    """A new extent, and a removed one, change the chunk's refs and ref bytes."""
    (chunk,) = put(opened, noise(100))
    inode = new_file(opened, b"f")
    opened.writes.truncate(inode, 100)
    opened.flush(inode)
    with opened.index.change():
        opened.maps.replace(inode, 0, 100, [Extent(0, chunk, 0, 100)])
    with opened.index.change():
        opened.maps.replace(inode, 40, 60, [])
    record = opened.chunks.record(chunk)
    assert (record.refs, record.ref_bytes) == (2, 80)
    assert isinstance(opened.writer(), ChunkWriter)


def test_a_chunk_is_dead_until_an_extent_refers_to_it(opened: Store) -> None:
    """The list of the dead, and the live bytes of the pack, follow the first and the last use."""
    (chunk,) = put(opened, noise(100))
    pack = opened.chunks.record(chunk).pack
    states = []
    for refs in (0, 1, 1, -1, -1):
        with opened.index.change():
            opened.chunks.add_refs(chunk, refs, 100 * refs)
        is_dead = opened.index.get(Table.DEAD, number_key(chunk)) is not None
        states.append((is_dead, opened.chunks.pack_row(pack).live, opened.counters.get(SHARED)))
    live = opened.chunks.record(chunk).stored
    assert states == [
        (True, 0, 0),
        (False, live, 0),
        (False, live, 100),
        (False, live, 0),
        (True, 0, 0),
    ]


def test_no_count_becomes_negative(opened: Store) -> None:
    """An extent, or a dependant, less than none is damage of the index, and changes nothing."""
    one, two = put(opened, noise(100), noise(100, 1))
    before = opened.chunks.record(one)
    for refs, ref_bytes in ((-1, 0), (0, -1)):
        with pytest.raises(CorruptIndex, match="would have"), opened.index.change():
            opened.chunks.add_refs(one, refs, ref_bytes)
    with opened.index.change():
        opened.chunks.lineage.link(one, two)  # which the count of `two` does not have
    with pytest.raises(CorruptIndex, match="dependants"), opened.index.change():
        opened.chunks.move(one, before)
    assert opened.chunks.record(one) == before
    assert opened.chunks.lineage.sources(one) == [two]
    with opened.index.change():
        opened.chunks.lineage.unlink(one, two)


def test_a_chunk_in_use_is_not_removed(opened: Store) -> None:
    """A chunk that is listed as dead by mistake stays."""
    inode = stored_file(opened, b"f", noise(100))
    chunk = chunk_at(opened, inode)
    with pytest.raises(CorruptIndex, match="in use"), opened.index.change():
        opened.chunks.remove(chunk)
    assert content_of(opened, inode) == noise(100)


def test_a_removed_chunk_leaves_those_of_its_hash(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of chunks with the same hash, one is removed and the others are found, in their order."""
    digest = opened.chunks.digest(b"")
    monkeypatch.setattr(ChunkTable, "digest", lambda self, content: digest)
    chunks = put(opened, *(noise(100, seed) for seed in range(3)))
    with opened.index.change():
        opened.chunks.remove(chunks[1])
    assert list(opened.chunks.with_digest(digest)) == [chunks[0], chunks[2]]
    drain(opened.reclaimer.remove_dead())
    assert opened.index.get(Table.HASHES, digest) is None


def test_a_move_keeps_the_counts(opened: Store) -> None:
    """A moved chunk has its new place, the uses it has by then, and live bytes in the new pack."""
    inode = stored_file(opened, b"f", noise(100))
    chunk = chunk_at(opened, inode)
    old = opened.chunks.record(chunk)
    opened.packs.seal(old.pack)
    writer = opened.writer()
    writer.copy(chunk, old, opened.stored_bytes.read(chunk, old))
    result = writer.finish()
    stored_file(opened, b"g", noise(100))  # while the chunk was copied
    assert opened.chunks.is_unmoved(chunk, old)
    drain(opened.publish(result))
    assert not opened.chunks.is_unmoved(chunk, old)
    new = opened.chunks.record(chunk)
    assert (new.refs, new.ref_bytes, new.pack) == (2, 200, old.pack + 1)
    rows = [opened.chunks.pack_row(pack).live for pack in (old.pack, new.pack)]
    assert rows == [0, new.stored]
