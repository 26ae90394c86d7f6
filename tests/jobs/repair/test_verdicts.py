"""Verdicts on suspects, rule by rule, on a chain of three chunks."""

import dataclasses

import pytest

from modelfs.jobs.repair.evidence import Bad, Intact, Needs, Verdict
from modelfs.jobs.repair.verdicts import resolve
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key
from modelfs.store.store import Store
from tests.support.derived_chain import CONTENT, ONE, THREE, TWO, evidence_of, forget
from tests.support.derived_chunks import HALF, derive, spoil


def resolved(store: Store, *suspects: ChunkId) -> dict[ChunkId, Verdict]:
    """Return the verdicts, and check that the index is as before."""
    before = list(store.index.pages(Table.CHUNKS))
    with store.index.change():
        verdicts = resolve(evidence_of(store), suspects)
    assert list(store.index.pages(Table.CHUNKS)) == before
    return verdicts


def change(store: Store, chunk: ChunkId, **fields: object) -> Chunk:
    """Change fields of a chunk's record, and return it."""
    record = dataclasses.replace(store.chunks.record(chunk), **fields)  # type: ignore[arg-type]
    with store.index.change():
        store.index.put(Table.CHUNKS, number_key(chunk), record.to_bytes())
    return record


def test_nothing_in_doubt_gives_no_verdict(chain: Store) -> None:
    """Without suspects there is nothing to settle."""
    assert resolved(chain) == {}


def test_rule_1_a_chain_is_judged_from_its_base(chain: Store) -> None:
    """Chunks that derive from suspects wait for them, in whatever order they are named."""
    records = {chunk: chain.chunks.record(chunk) for chunk in CONTENT}
    expected = {chunk: Intact(record) for chunk, record in records.items()}
    for suspects in ((ONE, TWO, THREE), (THREE, TWO, ONE), (TWO, ONE, THREE)):
        assert resolved(chain, *suspects) == expected


def test_rule_1_a_wrong_record_is_replaced_by_an_entry(chain: Store) -> None:
    """A record with a wrong place is put right from the segment's table, with its uses."""
    right = chain.chunks.record(ONE)
    change(chain, ONE, offset=right.offset + 1)
    assert resolved(chain, ONE) == {ONE: Intact(right)}


def test_rule_1_an_older_copy_serves_while_no_other_waits(copied: Store) -> None:
    """A chunk whose recipe is damaged is read from its plain copy, which is as good."""
    spoil(copied, TWO)
    found = resolved(copied, TWO)[TWO]
    assert isinstance(found, Intact)
    assert (found.record.kind, found.record.size) == (ChunkKind.PLAIN, HALF)
    assert found.record.digest == copied.chunks.record(TWO).digest


def test_a_newer_copy_that_waits_is_preferred_to_an_older_one(copied: Store) -> None:
    """A recipe whose source turns out to be right is kept, though a plain copy is there."""
    record = copied.chunks.record(TWO)
    assert resolved(copied, TWO, ONE) == {
        TWO: Intact(record),
        ONE: Intact(copied.chunks.record(ONE)),
    }


def test_rule_2_an_older_copy_comes_before_new_suspects(copied: Store) -> None:
    """A chunk with a plain copy needs no verdict on a source that was not in doubt."""
    spoil(copied, ONE)
    assert resolved(copied, TWO).keys() == {TWO}


def test_rule_2_an_older_copy_settles_what_waits_in_vain(copied: Store) -> None:
    """With the source lost, the plain copy of a derived chunk is its content."""
    spoil(copied, ONE)
    verdicts = resolved(copied, ONE, TWO)
    assert verdicts[ONE] == Bad()
    found = verdicts[TWO]
    assert isinstance(found, Intact)
    assert found.record.kind is ChunkKind.PLAIN


def test_rule_3_a_source_that_cannot_be_read_is_a_suspect_too(chain: Store) -> None:
    """The verdicts include a source that was not in doubt, and what derives from it waits."""
    spoil(chain, ONE)
    record = chain.chunks.record(TWO)
    assert resolved(chain, TWO) == {ONE: Bad(), TWO: Needs(record, ONE)}


def test_rule_3_a_source_that_is_known_as_lost_is_not_judged_again(chain: Store) -> None:
    """A lost source is no suspect, and the recipe comes back with it."""
    record = chain.chunks.record(TWO)
    change(chain, ONE, kind=ChunkKind.LOST, pack=PackId(0), offset=0, stored=0)
    assert resolved(chain, TWO) == {TWO: Needs(record, ONE)}


def test_rule_4_a_chunk_proves_its_source(chain: Store) -> None:
    """A copy of a chunk without any row is right if another comes out of it as it was."""
    one, two = chain.chunks.record(ONE), chain.chunks.record(TWO)
    forget(chain, ONE, digest=True)
    verdicts = resolved(chain, TWO)
    assert verdicts[TWO] == Intact(two)
    found = verdicts[ONE]
    assert isinstance(found, Intact)
    assert (found.record.place, found.record.digest) == (one.place, one.digest)


def test_rule_4_a_chunk_proves_the_sources_of_its_source(chain: Store) -> None:
    """Of two chunks without any row, both are right if a third comes out of them as it was."""
    records = {chunk: chain.chunks.record(chunk) for chunk in CONTENT}
    for chunk in (ONE, TWO):
        forget(chain, chunk, digest=True)
    verdicts = resolved(chain, THREE)
    assert verdicts[THREE] == Intact(records[THREE])
    for chunk in (ONE, TWO):
        found = verdicts[chunk]
        assert isinstance(found, Intact)
        assert found.record.digest == records[chunk].digest


def test_rule_4_nothing_is_proven_by_a_chunk_that_itself_is_unknown(chain: Store) -> None:
    """Of a chunk and its source, both without any row, nothing shows that they are right."""
    forget(chain, ONE, digest=True)
    forget(chain, TWO, digest=True)
    assert resolved(chain, ONE, TWO) == {ONE: Bad(), TWO: Bad()}


def test_rule_5_the_example(chain: Store) -> None:
    """With their base lost, recipes are believed one after the other, and come back with it."""
    records = {chunk: chain.chunks.record(chunk) for chunk in CONTENT}
    spoil(chain, ONE)
    assert resolved(chain, ONE, TWO, THREE) == {
        ONE: Bad(),
        TWO: Needs(records[TWO], ONE),
        THREE: Needs(records[THREE], ONE),
    }


def test_rule_5_a_recipe_that_no_record_has_is_lost(chain: Store) -> None:
    """A recipe is not believed without a record of its checksum, nor what derives from it."""
    spoil(chain, ONE)
    change(chain, TWO, checksum=1)
    three = chain.chunks.record(THREE)
    assert resolved(chain, ONE, TWO, THREE) == {
        ONE: Bad(),
        TWO: Bad(),
        THREE: Needs(three, TWO),
    }


def test_rule_5_without_a_record_of_the_source_the_recipe_is_lost(chain: Store) -> None:
    """A source of which no record is left cannot come back, and a recipe needs one."""
    spoil(chain, ONE)
    forget(chain, ONE)
    assert resolved(chain, TWO) == {ONE: Bad(), TWO: Bad()}


# -- rule 6: circles


def circle(store: Store) -> None:
    """Let chunk 1 derive from 2, which derives from 1."""
    derive(store, ONE, (TWO, 0, HALF), (TWO, 0, HALF))
    for chunk in (ONE, TWO):
        store.chunk_reader.forget(chunk)


def test_rule_6_a_circle_is_cut(chain: Store) -> None:
    """One chunk of a circle is lost, and the other one's recipe needs it."""
    circle(chain)
    # The plain copy of 1 is damaged, so that only its recipe is left.
    spoil_at(chain, PackId(2), ONE)
    two = chain.chunks.record(TWO)
    assert resolved(chain, ONE, TWO) == {ONE: Bad(), TWO: Needs(two, ONE)}


def test_rule_6_the_chunk_that_would_be_lost_anyway_is_cut(chain: Store) -> None:
    """Of a circle, a chunk whose recipe no record has is lost, and not the first one."""
    circle(chain)
    spoil_at(chain, PackId(2), ONE)
    one = chain.chunks.record(ONE)
    change(chain, TWO, checksum=1)
    assert resolved(chain, ONE, TWO) == {TWO: Bad(), ONE: Needs(one, TWO)}


def test_a_circle_with_an_older_copy_is_none(chain: Store) -> None:
    """With a plain copy of one of its chunks, a circle is cut there, and nothing is lost."""
    circle(chain)
    two = chain.chunks.record(TWO)
    verdicts = resolved(chain, ONE, TWO)
    found = verdicts[ONE]
    assert isinstance(found, Intact)
    assert found.record.kind is ChunkKind.PLAIN
    assert verdicts[TWO] == Intact(two)


def spoil_at(store: Store, pack: PackId, chunk: ChunkId) -> None:
    """Damage a chunk's plain copies in a pack."""
    path = store.packs.directory.path / f"{pack:08d}.pack"
    content = bytearray(path.read_bytes())
    for entry in evidence_of(store).packs[pack].entries[chunk]:
        if entry.kind is ChunkKind.PLAIN:
            content[entry.offset] ^= 1
    path.write_bytes(content)


# -- the index meanwhile


@pytest.mark.parametrize("reads", range(4))
def test_the_index_is_as_before_after_an_error(
    chain: Store, monkeypatch: pytest.MonkeyPatch, reads: int
) -> None:
    """Ctrl-C at any read leaves every record as it was."""
    before = list(chain.index.pages(Table.CHUNKS))
    real = chain.chunk_reader.read_uncached
    count = iter(range(99))

    def interrupted(chunk: ChunkId, record: Chunk) -> bytes:
        if next(count) == reads:
            raise KeyboardInterrupt
        return real(chunk, record)

    monkeypatch.setattr(chain.chunk_reader, "read_uncached", interrupted)
    with chain.index.change():
        with pytest.raises(KeyboardInterrupt):
            resolve(evidence_of(chain), (THREE, TWO, ONE))
        assert list(chain.index.pages(Table.CHUNKS)) == before


def test_content_in_memory_is_no_evidence(chain: Store) -> None:
    """A recipe that waits for its source is not read from memory by what derives from it."""
    records = {chunk: chain.chunks.record(chunk) for chunk in CONTENT}
    chain.chunk_reader.read_current(TWO)
    spoil(chain, ONE)
    assert resolved(chain, ONE, TWO, THREE) == {
        ONE: Bad(),
        TWO: Needs(records[TWO], ONE),
        THREE: Needs(records[THREE], ONE),
    }
