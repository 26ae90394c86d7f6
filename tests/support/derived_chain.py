"""A store with a chain of three derived chunks, to be damaged and judged."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelfs.jobs.repair.evidence import Evidence
from modelfs.jobs.repair.pack_files import read_segment_tables
from modelfs.store.index.tables import ChunkId, Table, number_key
from modelfs.store.store import Store
from tests.support.derived_chunks import HALF, chunk_at, derive
from tests.support.run_jobs import collect
from tests.support.stores import CHUNK, check_closed, noise, stored_file

ONE, TWO, THREE = map(ChunkId, (1, 2, 3))
CONTENT = {ONE: noise(CHUNK), TWO: noise(CHUNK)[100 : 100 + HALF], THREE: noise(CHUNK)[150:1150]}


@contextmanager
def chain_in(folder: Path, *, one_copy: bool) -> Iterator[Store]:
    """Open a store in which chunk 2 derives from 1, and 3 from 2.

    Damage is undone after the block. Then the store is sound, unless verdicts changed it.
    """
    store = Store(folder)
    for chunk, content in CONTENT.items():
        assert chunk_at(store, stored_file(store, b"%d" % chunk, content)) == chunk
    derive(store, TWO, (ONE, 100, HALF))
    derive(store, THREE, (TWO, 50, 1000))
    store.commit()
    if one_copy:
        collect(store, live_min=2)
    files = {path: path.read_bytes() for path in store.packs.directory.path.iterdir()}
    yield store
    store.abandon()
    for path, content in files.items():
        path.write_bytes(content)
    assert check_closed(folder) == []


def evidence_of(store: Store) -> Evidence:
    """Read the segment tables of all packs, none of which is damaged."""
    packs = {pack: read_segment_tables(store.packs, pack) for pack in store.packs.numbers()}
    return Evidence(store, packs, set())


def forget(store: Store, chunk: ChunkId, *, digest: bool = False) -> None:
    """Delete a chunk's record, and if asked to the row that finds it by its hash."""
    record = store.chunks.record(chunk)
    with store.index.change():
        store.index.delete(Table.CHUNKS, number_key(chunk))
        if digest:
            store.index.delete(Table.HASHES, record.digest)
