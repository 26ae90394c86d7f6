"""Evidence on a chunk: candidates in their order, and the verdict on each."""

import dataclasses

import pytest

from modelfs.errors import CorruptChunk
from modelfs.jobs.repair.evidence import Bad, Intact, Needs, Verdict, candidates, verdict
from modelfs.store.index.chunk_records import UNKNOWN, Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId, PackId, Table
from modelfs.store.store import Store
from tests.support.derived_chain import CONTENT, ONE, THREE, TWO, evidence_of, forget
from tests.support.derived_chunks import spoil
from tests.support.put_chunks import TEXT, put
from tests.support.stores import CHUNK


def judged(store: Store, chunk: ChunkId, record: Chunk | None, candidate: Chunk) -> Verdict:
    return verdict(evidence_of(store), chunk, record, candidate)


def forget_hash(store: Store, chunk: ChunkId) -> None:
    with store.index.change():
        store.index.delete(Table.HASHES, store.chunks.record(chunk).digest)


def test_the_record_comes_before_the_tables_and_newer_packs_before_older(copied: Store) -> None:
    """Whole segments come before strays, and the last entry of a pack before those before it."""
    evidence = evidence_of(copied)
    record = copied.chunks.record(TWO)
    state = evidence.packs[record.pack]
    plain, derived = state.entries[TWO]
    state.strays.append(dataclasses.replace(plain, offset=1 << 30))
    older = dataclasses.replace(state, pack=PackId(0), strays=[])
    evidence.packs[PackId(0)] = older
    found = list(candidates(evidence, TWO, record))
    assert [(each.pack, each.offset) for each in found] == [
        record.place,
        (record.pack, derived.offset),
        (record.pack, plain.offset),
        (record.pack, 1 << 30),
        (0, derived.offset),
        (0, plain.offset),
    ]
    assert {each.content_checksum for each in found} == {0}
    assert [each.digest for each in found] == [record.digest] + [UNKNOWN] * 5
    of_lost = candidates(evidence, TWO, record.as_lost())
    assert [each.place for each in of_lost] == [each.place for each in found[1:]]


def test_an_intact_chunk_has_its_record_back(chain: Store) -> None:
    """Hash and content checksum are those of the content that was read."""
    for chunk in CONTENT:
        record = chain.chunks.record(chunk)
        candidate = dataclasses.replace(record, digest=UNKNOWN, content_checksum=0)
        assert judged(chain, chunk, record, candidate) == Intact(record)


def test_a_candidate_that_cannot_be_is_bad(chain: Store) -> None:
    """A contradiction in the candidate, damaged bytes, and a missing pack are no evidence."""
    record = chain.chunks.record(ONE)
    for fields in ({"size": 0}, {"size": CHUNK + 1}, {"pack": PackId(9)}, {"offset": 1 << 40}):
        candidate = dataclasses.replace(record, **fields)
        assert judged(chain, ONE, record, candidate) == Bad()
    spoil(chain, ONE)
    assert judged(chain, ONE, record, record) == Bad()


def test_a_contradiction_is_bad_although_its_content_is_right(chain: Store) -> None:
    """A form that modelfs never writes is not taken over, even if its stored bytes are right."""
    (text,) = put(chain, TEXT, compress=True)
    record = chain.chunks.record(text)
    plain = dataclasses.replace(record, kind=ChunkKind.PLAIN)
    with pytest.raises(CorruptChunk, match="a PLAIN chunk with codec ZSTD"):
        chain.chunk_reader.read_uncached(text, plain)
    assert judged(chain, text, record, plain) == Bad()


def test_a_damaged_recipe_is_bad_and_a_missing_source_is_needed(chain: Store) -> None:
    """Damage of the source is no verdict on the recipe."""
    record = chain.chunks.record(TWO)
    forget(chain, ONE)
    chain.chunk_reader.forget(ONE)
    assert judged(chain, TWO, record, record) == Needs(record, ONE)
    spoil(chain, TWO)
    assert judged(chain, TWO, record, record) == Bad()


def test_a_hash_that_leads_to_the_chunk_proves_it(chain: Store) -> None:
    """Even without a record, content is the chunk's if the table of hashes says so."""
    record = chain.chunks.record(ONE)
    assert judged(chain, ONE, None, record) == Intact(record)
    forget_hash(chain, ONE)
    assert judged(chain, ONE, None, record) == Bad()


def test_the_hash_of_the_record_proves_it(chain: Store) -> None:
    """Without the row of its hash, content is the chunk's if the record has its hash."""
    record = chain.chunks.record(ONE)
    forget_hash(chain, ONE)
    evidence = evidence_of(chain)
    del evidence.packs[record.pack].entries[ONE]
    assert verdict(evidence, ONE, record, record) == Intact(record)


def test_a_record_that_a_table_confirms_needs_no_hash(chain: Store) -> None:
    """Record and segment that agree in all but the hash prove it; each alone does not."""
    right = chain.chunks.record(ONE)
    forget_hash(chain, ONE)
    wrong = dataclasses.replace(right, digest=bytes(15) + b"\1")
    assert judged(chain, ONE, wrong, right) == Intact(right)
    other = dataclasses.replace(wrong, checksum=wrong.checksum ^ 1)
    assert judged(chain, ONE, other, right) == Bad()
    evidence = evidence_of(chain)
    del evidence.packs[right.pack].entries[ONE]
    assert verdict(evidence, ONE, wrong, right) == Bad()


def test_a_recipe_needs_the_content_checksum_too(chain: Store) -> None:
    """A recipe yields content from any sources: with a wrong hash only its checksum proves it."""
    right = chain.chunks.record(TWO)
    forget_hash(chain, TWO)
    wrong = dataclasses.replace(right, digest=bytes(15) + b"\1")
    assert judged(chain, TWO, wrong, right) == Intact(right)
    assert judged(chain, TWO, dataclasses.replace(wrong, content_checksum=1), right) == Bad()


def test_another_chunks_bytes_are_no_copy(chain: Store) -> None:
    """A record that leads to intact bytes of another chunk is bad."""
    one, three = chain.chunks.record(ONE), chain.chunks.record(THREE)
    assert judged(chain, THREE, three, one) == Bad()
