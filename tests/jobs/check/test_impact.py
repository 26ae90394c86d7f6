"""The impact of damaged chunks: their own files and tensors, and those of derived chunks."""

from modelfs.jobs.check.fsck import fsck
from modelfs.jobs.check.impact import chunk_finding, impacts, known_loss
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.check.view import CheckView
from tests.support.sample_lineage import Kin
from tests.support.sample_store import BOTTOM, SHARERS, TOP, WORDS, Sample
from tests.support.stores import overwrite


def test_a_base_has_the_files_of_all_that_derives_from_it(sample: Sample) -> None:
    """The impact of a base is that of its dependants too; the impact of one of these is its own."""
    kin = Kin(sample)
    by_chunk = impacts(CheckView(sample.store), [kin.bottom, kin.derived, kin.held])
    bottom, derived, held = by_chunk[kin.bottom], by_chunk[kin.derived], by_chunk[kin.held]
    assert (set(bottom.files), set(bottom.tensors)) == ({BOTTOM, TOP}, {"t0", "t1"})
    assert (bottom.derived, bottom.base) == (1, "/bottom.safetensors: t0")
    assert (set(derived.files), set(derived.tensors)) == ({TOP}, {"t1"})
    assert (derived.derived, derived.suffix) == (0, "")
    assert (set(held.files), set(held.tensors), held.base) == ({TOP}, {"t2"}, "")
    sample.store.abandon()


def test_several_chunks_are_one_finding(sample: Sample) -> None:
    """A finding of more than one chunk has all their files, and no word about a base."""
    kin = Kin(sample)
    words, _ = sample.chunk_at(sample.base, 1000)
    finding = chunk_finding(CheckView(sample.store), "some", "they are gone", [kin.bottom, words])
    assert (finding.message, set(finding.files)) == ("they are gone", {BOTTOM, TOP, *SHARERS})
    assert set(finding.tensors) == {"t0", "t1", WORDS}
    sample.store.abandon()


def test_a_loss_counts_every_use(sample: Sample) -> None:
    """Lost bytes are those of files: each use of a lost chunk, and of those that derive from it."""
    kin = Kin(sample)
    record = sample.store.chunks.record(kin.bottom)
    sample.put_chunk(kin.bottom, record.as_lost())
    loss = known_loss(CheckView(sample.store))
    assert (loss.chunks, loss.bytes) == (1, record.size + 50_000)
    assert set(loss.impact.files) == {BOTTOM, TOP}
    sample.store.abandon()


def test_the_report_hands_damage_on(sample: Sample) -> None:
    """What the invariants reported is in the report, by kind, for repair to begin with."""
    kin = Kin(sample)
    overwrite(sample.pack, sample.store.chunks.record(kin.bottom).offset, b"damaged")
    reported = fsck(sample.store, data=True).reported
    assert reported == Reported(damaged=frozenset([kin.bottom]))
    assert fsck(sample.store).reported.damaged == set()
    sample.store.abandon()
