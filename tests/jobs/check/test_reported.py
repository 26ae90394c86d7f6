"""Reported damage: the parts that invariants yield are joined, and the parts stay as they were."""

import dataclasses

import pytest

from modelfs.errors import CorruptIndex
from modelfs.jobs.check import fsck as fsck_module
from modelfs.jobs.check.fsck import Results, fsck
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.check.view import CheckView
from modelfs.store.index.tables import ChunkId, InodeNumber, Table
from tests.support.sample_store import Sample

ONE, TWO = ChunkId(1), ChunkId(2)


def test_parts_are_joined() -> None:
    """The whole has the damage of each part, and no part changes."""
    chunks, dead = {Table.CHUNKS: frozenset([b"1"])}, {Table.DEAD: frozenset([b"2"])}
    none = Reported().broken
    first = Reported(broken={**none, **chunks}, damaged=frozenset([ONE]), lost_packs={1: 0})
    parts = [
        Reported(broken={**none, **dead}, lineage_doubtful=True),
        Reported(damaged=frozenset([TWO]), lost_packs={2: 4096}),
    ]
    whole = first.joined(parts)
    assert whole == Reported(
        broken={**none, **chunks, **dead},
        lineage_doubtful=True,
        damaged=frozenset([ONE, TWO]),
        lost_packs={1: 0, 2: 4096},
    )
    assert first.damaged == {ONE}
    assert first.joined([]) is first


def test_no_field_is_left_out() -> None:
    """A part with damage of every kind is the whole, if there is nothing else."""
    part = Reported(
        broken={**Reported().broken, Table.CHUNKS: frozenset([b"1"])},
        misnamed=frozenset([InodeNumber(1)]),
        baseless=frozenset([ONE]),
        lineage_doubtful=True,
        endless=frozenset([ONE]),
        too_long=frozenset([ONE]),
        lost_packs={1: 0},
        damaged=frozenset([ONE]),
        damaged_windows=frozenset([b"1"]),
    )
    for field in dataclasses.fields(Reported):
        assert getattr(part, field.name) != getattr(Reported(), field.name)
    assert Reported().joined([part]) == part


def test_an_invariant_that_fails_keeps_its_damage(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage before an error in the middle of an invariant is known to those after it."""
    taken: list[Reported] = []

    def failing(_: CheckView, reported: Reported) -> Results:
        yield Reported(misnamed=frozenset([InodeNumber(5)]))
        raise CorruptIndex("says the test")

    def following(_: CheckView, reported: Reported) -> Results:
        taken.append(reported)
        yield from ()

    monkeypatch.setattr(fsck_module, "INVARIANTS", (failing, following))
    report = fsck(sample.store)
    assert [finding.invariant for finding in report.findings] == ["unchecked"]
    assert taken == [report.reported] == [Reported(misnamed=frozenset([InodeNumber(5)]))]
    sample.store.abandon()
