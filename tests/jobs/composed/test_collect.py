"""Garbage collection as a whole."""

import pytest

from modelfs.jobs.composed.collect import collect_all, survey
from modelfs.jobs.drive import run
from modelfs.jobs.gc.collector import LIVE_MIN_SMALL, Garbage
from modelfs.jobs.gc.job import OrphanQueue
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.tables import ROOT, ChunkId, Table, number_of
from modelfs.store.store import Store
from tests.support.derived_chunks import HALF, chunk_at, derive
from tests.support.optimized_models import put, real
from tests.support.run_jobs import collect_with, collector_of
from tests.support.stores import CHUNK, Box, content_of, noise, stored_file


@pytest.fixture
def held(wide: Box) -> Store:
    """A store with an orphan whose chunks are the bases of a fine-tune."""
    for name in ("base", "finetune"):
        put(wide.store, name, real(f"{name}.safetensors"))
    wide.store.namespace.unlink(ROOT, b"base")
    return wide.store


def test_bases_of_orphans_are_freed(held: Store) -> None:
    """One collection removes orphans, and frees the chunks that only derived ones need."""
    before = collector_of(held).pack_bytes()
    run(OrphanQueue(held, held.orphans.inodes()).remove(), held)
    bases = {chunk for chunk, _ in held.base_only.chunks(with_kept=True)}
    found = collect_with(held, collector_of(held), LIVE_MIN_SMALL)
    left = {chunk for chunk, _ in held.base_only.chunks(with_kept=True)}
    freed = before - collector_of(held).pack_bytes()
    assert found.base_only_chunks == len(bases - left) > 0
    assert (found.pack_bytes, found.base_only_bytes) == (freed, 0)
    assert freed > 200_000
    assert collect_with(held, collector_of(held), LIVE_MIN_SMALL) == Garbage(0, 0, 0, 0)
    inode = held.namespace.lookup(ROOT, b"finetune")
    assert content_of(held, inode) == real("finetune.safetensors")


def test_it_ends_when_enough_is_free(opened: Store) -> None:
    """No pack is rewritten once there is enough room; dead chunks go in any case."""
    stored_file(opened, b"kept", noise(10_000, 1))
    gone = stored_file(opened, b"gone", noise(3_000_000, 2))
    opened.namespace.unlink(ROOT, b"gone")
    collecting = collect_all(
        opened,
        collector_of(opened),
        OrphanQueue(opened, [gone]),
        enough=lambda: True,
        threads=1,
    )
    found = run(collecting, opened)
    assert found.dead_chunks > 0
    assert found.packs == 0
    assert collector_of(opened).survey().dead_chunks == 0


def test_a_survey_counts_as_a_collection_does(held: Store) -> None:
    """The base-only chunks of a survey are those that the next collection frees."""
    run(OrphanQueue(held, held.orphans.inodes()).remove(), held)
    before = sum(record.stored for _, record in chunks_of(held))
    bases = {chunk for chunk, _ in held.base_only.chunks(with_kept=True)}
    would = survey(held, collector_of(held))
    assert sum(record.stored for _, record in chunks_of(held)) == before
    collect_with(held, collector_of(held), LIVE_MIN_SMALL)
    left = dict(chunks_of(held))
    assert would.base_only_chunks == len(bases - left.keys())
    after = sum(record.stored for record in left.values())
    assert would.base_only_bytes + would.dead_bytes == before - after


def test_a_survey_leaves_out_bases_that_stay(opened: Store) -> None:
    """A base that the next collection will keep is no garbage, for any estimate."""
    whole = noise(CHUNK)
    base, *parts = (
        chunk_at(opened, stored_file(opened, b"%d" % number, content))
        for number, content in enumerate((whole, whole[:HALF], whole[1 : HALF + 1], whole[HALF:]))
    )
    for part, skip in zip(parts, (0, 1, HALF), strict=True):
        derive(opened, part, (base, skip, HALF))
    opened.namespace.unlink(ROOT, b"0")
    run(OrphanQueue(opened, opened.orphans.inodes()).remove(), opened)
    assert opened.base_only.estimate()[0] == 1
    assert survey(opened, collector_of(opened)).base_only_chunks == 0
    collect_with(opened, collector_of(opened), LIVE_MIN_SMALL)
    assert opened.chunks.record(base).base_only
    assert opened.base_only.estimate()[0] == 0


def chunks_of(store: Store) -> list[tuple[ChunkId, Chunk]]:
    """Return the chunks of a store."""
    rows = store.index.pages(Table.CHUNKS)
    return [(ChunkId(number_of(key)), Chunk.from_bytes(value)) for key, value in rows]
