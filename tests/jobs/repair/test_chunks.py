"""Repair of chunks: which copy of a chunk is believed, and by what evidence."""

import dataclasses

import pytest

from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.tables import ChunkId, Table, number_key, number_of, pair_key
from modelfs.store.store import Store
from tests.support.byte_damage import Contents, files_of, lost_files, mend
from tests.support.sample_lineage import Kin, change, collect_plain_copies, spoil
from tests.support.sample_store import BOTTOM, TOP, Sample


@pytest.fixture
def kin(sample: Sample) -> Kin:
    """The derived chunks of a sample in which no chunk has an older copy."""
    collect_plain_copies(sample)
    return Kin(sample)


def forget(sample: Sample, chunk: ChunkId, *, digest: bool = True, links: bool = False) -> None:
    """Delete a chunk's record, and if asked to its hash, and the rows of its lineage."""
    record = sample.store.chunks.record(chunk)
    sample.delete(Table.CHUNKS, number_key(chunk))
    if digest:
        sample.delete(Table.HASHES, record.digest)
    if links:
        forget_links(sample, chunk)


def forget_links(sample: Sample, chunk: ChunkId) -> None:
    for table in (Table.SOURCES, Table.DEPENDANTS):
        for key, _ in list(sample.store.index.pages(table)):
            if number_key(chunk) in (key[:8], key[8:]):
                sample.delete(table, key)


def kind_of(sample: Sample, chunk: ChunkId) -> ChunkKind | None:
    """Return the kind of a chunk in the repaired store, None if it has no record."""
    with Store(sample.path, read_only=True) as store:
        record = store.chunks.find(chunk)
        return None if record is None else record.kind


def failing(sample: Sample, good: Contents) -> set[bytes]:
    """Return the files that fail to read; all others have to be as they were."""
    found = files_of(sample.path)
    failed = {path for path, data in found.items() if data is None}
    assert found == {path: None if path in failed else data for path, data in good.items()}
    return failed


# -- a source without a record


def test_a_source_is_proven_by_the_chunk_that_derives_from_it(
    sample: Sample, kin: Kin, good: Contents
) -> None:
    """A copy of a chunk of which no row is left is right if another comes out of it as it was."""
    forget(sample, kin.held)
    forget(sample, kin.orphan, digest=False)
    assert lost_files(mend(sample)) == set()
    assert failing(sample, good) == set()
    assert kind_of(sample, kin.held) is ChunkKind.PLAIN


def test_a_source_that_nothing_proves_is_lost(sample: Sample, kin: Kin, good: Contents) -> None:
    """Of a chunk and its source, both without record and hash, nothing shows what they were."""
    forget(sample, kin.held)
    forget(sample, kin.orphan)
    assert lost_files(mend(sample)) == {TOP}
    assert failing(sample, good) == {TOP}
    assert kind_of(sample, kin.held) is kind_of(sample, kin.orphan) is None


def test_a_source_that_is_nowhere_costs_what_derives_from_it(
    sample: Sample, kin: Kin, good: Contents
) -> None:
    """Without a record, and with its bytes damaged, a source cannot even be called lost."""
    spoil(sample, kin.held)
    forget(sample, kin.held)
    forget(sample, kin.orphan, digest=False)
    assert lost_files(mend(sample)) == {TOP}
    assert failing(sample, good) == {TOP}


# -- a recipe that is damaged, or leads nowhere


def test_a_recipe_is_read_when_lineage_is_in_doubt(
    sample: Sample, kin: Kin, good: Contents
) -> None:
    """Without --data, too, a damaged recipe is found while the rows of lineage are restored."""
    spoil(sample, kin.orphan)
    sample.delete(Table.DEPENDANTS, pair_key(kin.bottom, kin.derived))
    report = mend(sample, data=False)
    assert lost_files(report) == {TOP}
    assert failing(sample, good) == {TOP}
    assert kind_of(sample, kin.orphan) is ChunkKind.LOST
    assert kind_of(sample, kin.derived) is ChunkKind.DERIVED


# -- hashes


def test_a_recipe_is_believed_by_its_content_checksum(
    sample: Sample, kin: Kin, good: Contents
) -> None:
    """A derived chunk with a wrong hash is right if its content has the checksum of the record."""
    record = sample.store.chunks.record(kin.derived)
    sample.delete(Table.HASHES, record.digest)
    change(sample, kin.derived, digest=bytes(15) + b"\1")
    assert lost_files(mend(sample)) == set()
    assert failing(sample, good) == set()
    assert kind_of(sample, kin.derived) is ChunkKind.DERIVED


def test_a_recipe_alone_proves_nothing(sample: Sample, kin: Kin, good: Contents) -> None:
    """A recipe makes something of any sources: without hash and checksum it is not believed."""
    record = sample.store.chunks.record(kin.derived)
    sample.delete(Table.HASHES, record.digest)
    change(sample, kin.derived, digest=bytes(15) + b"\1", content_checksum=1)
    assert lost_files(mend(sample)) == {TOP}
    assert failing(sample, good) == {TOP}


def test_of_two_copies_that_with_the_hash_is_taken(
    sample: Sample, kin: Kin, good: Contents
) -> None:
    """Where a record leads to another chunk's bytes, the copy with the chunk's hash replaces it."""
    record = sample.store.chunks.record(kin.bottom)
    other = sample.store.chunks.record(kin.held)
    same_size = dataclasses.replace(other, digest=record.digest, refs=1, ref_bytes=record.ref_bytes)
    sample.put_chunk(kin.bottom, dataclasses.replace(same_size, dependants=1))
    assert lost_files(mend(sample)) == set()
    assert failing(sample, good) == set()


# -- dead chunks


def test_a_damaged_chunk_that_nothing_uses_is_removed(sample: Sample, good: Contents) -> None:
    """It is no loss, and its row goes to quarantine."""
    key, _ = next(sample.store.index.pages(Table.DEAD))
    chunk = ChunkId(number_of(key))
    spoil(sample, chunk)
    change(sample, chunk, size=1 << 30)
    report = mend(sample)
    assert lost_files(report) == set()
    assert any(f"chunk {chunk} was damaged" in each.message for each in report.actions)
    assert kind_of(sample, chunk) is None
    assert failing(sample, good) == set()
    assert '"table": "chunks"' in (sample.path / "quarantine" / "rows.jsonl").read_text()


def test_a_lost_chunk_is_lost_once(sample: Sample, kin: Kin, good: Contents) -> None:
    """A lost chunk that a segment table still names is looked for again, and not lost again."""
    spoil(sample, kin.bottom)
    assert lost_files(mend(sample)) == {BOTTOM, TOP}
    sample.store = Store(sample.path)
    sample.delete(Table.HASHES, sample.store.chunks.record(kin.held).digest)
    assert lost_files(mend(sample)) == set()
    assert failing(sample, good) == {BOTTOM, TOP}
