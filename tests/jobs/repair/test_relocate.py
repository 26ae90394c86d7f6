"""Relocation: chunks move to a new pack, durably, as they are stored or plain."""

import dataclasses
import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from modelfs.codecs.base import CodecId
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.evidence import Evidence
from modelfs.jobs.repair.pack_files import PackState
from modelfs.jobs.repair.quarantine import Quarantine
from modelfs.jobs.repair.relocate import PACK_END, relocate
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.counters import NEXT_PACK
from modelfs.store.index.tables import ChunkId, PackId, Table
from modelfs.store.packs import pack as pack_module
from modelfs.store.packs.pack import Packs
from modelfs.store.store import Store
from tests.support.derived_chain import CONTENT, ONE, THREE, TWO, evidence_of
from tests.support.derived_chunks import spoil


@contextmanager
def round_of(store: Store) -> Iterator[tuple[RepairContext, Evidence]]:
    """Begin a round of repair; its changes are never committed."""
    with store.index.change():
        quarantine = Quarantine(store.directory)
        yield RepairContext(store, quarantine, Reported()), evidence_of(store)


def move(context: RepairContext, evidence: Evidence, *chunks: ChunkId, plain: set[ChunkId]) -> None:
    records = {chunk: context.store.chunks.record(chunk) for chunk in chunks}
    relocate(context, evidence, records, plain)


def test_nothing_to_move_makes_no_pack(chain: Store) -> None:
    """Without a chunk there is neither a pack nor a word about it."""
    with round_of(chain) as (context, evidence):
        before = list(chain.index.pages(Table.PACKS))
        move(context, evidence, plain=set())
        assert (context.actions, list(chain.index.pages(Table.PACKS))) == ([], before)
    assert chain.packs.numbers() == {PackId(2)}


def test_moved_chunks_have_their_content_in_a_new_pack(chain: Store) -> None:
    """Records, the pack's row and the evidence all have the new places, in the old order."""
    with round_of(chain) as (context, evidence):
        old = [chain.chunks.record(chunk) for chunk in (ONE, THREE)]
        move(context, evidence, THREE, ONE, plain=set())
        new = [chain.chunks.record(chunk) for chunk in (ONE, THREE)]
        assert {record.pack for record in new} == {PackId(3)}
        assert new[0].offset < new[1].offset
        for before, after in zip(old, new, strict=True):
            same_place = dataclasses.replace(after, pack=before.pack, offset=before.offset)
            assert same_place == before
        assert chain.chunks.record(TWO).pack == 2
        assert all(evidence.is_safe(chunk, chain.chunks.record(chunk)) for chunk in CONTENT)
        state = evidence.packs[PackId(3)]
        assert chain.chunks.pack_row(PackId(3)).stop == state.length == state.ends[-1]
        assert chain.counters.get(NEXT_PACK) == 4
        for chunk, content in CONTENT.items():
            assert chain.chunk_reader.read_uncached(chunk, chain.chunks.record(chunk)) == content


def test_plain_chunks_are_copied_as_their_content(chain: Store) -> None:
    """A derived chunk becomes plain, also if it was to be copied as it is."""
    with round_of(chain) as (context, evidence):
        move(context, evidence, TWO, plain={TWO, THREE})
        for chunk in (TWO, THREE):
            record = chain.chunks.record(chunk)
            assert (record.kind, record.codec) == (ChunkKind.PLAIN, CodecId.RAW)
            assert chain.chunk_reader.read_uncached(chunk, record) == CONTENT[chunk]
        entries = evidence.packs[PackId(3)].entries
        assert {chunk: len(found) for chunk, found in entries.items()} == {TWO: 1, THREE: 1}


def test_a_chunk_whose_source_is_gone_is_left_for_the_next_round(chain: Store) -> None:
    """A chunk that cannot be decoded any more keeps its record, and the others move."""
    spoil(chain, TWO)
    with round_of(chain) as (context, evidence):
        before = chain.chunks.record(THREE)
        move(context, evidence, ONE, plain={THREE})
        assert chain.chunks.record(THREE) == before
        assert chain.chunks.record(ONE).pack == 3


def test_the_new_pack_is_behind_every_pack_that_there_is(chain: Store) -> None:
    """A pack file without a row keeps its name; a damaged number is no pack's."""
    with round_of(chain) as (context, evidence):
        for number in (7, PACK_END, PACK_END + 1):
            evidence.packs[PackId(number)] = PackState(PackId(number))
        move(context, evidence, ONE, plain=set())
        assert chain.chunks.record(ONE).pack == 8
        assert chain.counters.get(NEXT_PACK) == 9


def test_bytes_are_durable_before_the_records_change(
    chain: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new pack is synced while all records still have their old places."""
    places: list[PackId] = []
    real = Packs.flush

    def noted(packs: Packs) -> None:
        real(packs)
        places.append(chain.chunks.record(ONE).pack)

    monkeypatch.setattr(Packs, "flush", noted)
    with round_of(chain) as (context, evidence):
        move(context, evidence, ONE, plain=set())
    assert places == [2]


def test_a_full_disk_changes_no_record(chain: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error at writing is raised, and no record has a place in the new pack."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    before = list(chain.index.pages(Table.CHUNKS))
    with round_of(chain) as (context, evidence):
        monkeypatch.setattr(pack_module, "write_at", full)
        with pytest.raises(OSError, match="full"):
            move(context, evidence, ONE, plain={THREE})
        assert list(chain.index.pages(Table.CHUNKS)) == before
        assert chain.counters.get(NEXT_PACK) == 3
    chain.packs.roll_back(None)
