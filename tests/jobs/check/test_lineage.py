"""Derived chunks, checked: one damage, one finding, and damage of a source names all it hurts."""

import pytest

from modelfs.codecs.base import CodecId
from modelfs.jobs.check.findings import Severity
from modelfs.jobs.check.fsck import check
from modelfs.jobs.scrub.report import scrub_report
from modelfs.jobs.scrub.scrubber import Scrubber
from modelfs.store.chunks.lineage import CHAIN_MAX
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.tables import ChunkId, Table, number_key, number_of, pair_key
from tests.support.derived_chunks import chunk_at, derive
from tests.support.run_jobs import scrub
from tests.support.sample_lineage import Kin, change
from tests.support.sample_store import BOTTOM, TOP, Sample
from tests.support.stores import Box, noise, overwrite, pack_path, stored_file

# -- rows


@pytest.mark.parametrize("table", [Table.SOURCES, Table.DEPENDANTS])
def test_a_link_in_one_table_is_found(sample: Sample, table: Table) -> None:
    """A derivation has a row in both tables; either of them counts for the other invariants."""
    for key, _ in list(sample.store.index.pages(table))[:1]:
        sample.delete(table, key)
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("links-agree", Severity.ACCOUNT)


def test_a_link_of_no_chunk_is_found(sample: Sample, kin: Kin) -> None:
    """What is said to derive from another exists."""
    with sample.store.index.change():
        sample.store.chunks.lineage.link(ChunkId(1000), kin.bottom)
    change(sample, kin.bottom, dependants=2)
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("link-chunk", Severity.ACCOUNT)


def test_a_link_to_no_chunk_names_whom_it_hurts(sample: Sample, kin: Kin) -> None:
    """A chunk whose source has no record cannot be read, which is one finding."""
    sample.delete(Table.CHUNKS, number_key(kin.held))
    found = sample.findings()
    sums = {"hash", "held", "total", "pack-live"}
    (finding,) = [each for each in found if each.invariant not in sums]
    assert (finding.invariant, finding.files, finding.tensors) == ("link-chunk", (TOP,), ("t2",))


def test_a_derived_chunk_without_sources_is_found(sample: Sample, kin: Kin) -> None:
    """Where no row says what a chunk needs, nothing keeps that from being removed."""
    sample.delete(Table.SOURCES, pair_key(kin.derived, kin.bottom))
    sample.delete(Table.DEPENDANTS, pair_key(kin.bottom, kin.derived))
    change(sample, kin.bottom, dependants=0)
    found = sample.findings(data=False)
    assert [(each.invariant, each.files, each.tensors) for each in found] == [
        ("derived", (TOP,), ("t1",))
    ]


def test_sources_of_what_is_not_derived_are_found(sample: Sample, kin: Kin) -> None:
    """No other chunk has sources."""
    chunk, _ = sample.chunk_at(sample.base, 1000)
    with sample.store.index.change():
        sample.store.chunks.lineage.link(chunk, kin.bottom)
    change(sample, kin.bottom, dependants=2)
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("derived", Severity.ACCOUNT)


@pytest.mark.parametrize(("pins", "severity"), [(0, Severity.DAMAGE), (2, Severity.ACCOUNT)])
def test_a_wrong_pin_count_is_found(
    sample: Sample, kin: Kin, pins: int, severity: Severity
) -> None:
    """A chunk's count of those that derive from it is damage if it is too low."""
    change(sample, kin.bottom, dependants=pins)
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("chunk-pins", severity)


def test_a_held_chunk_that_is_not_listed_is_found(sample: Sample, kin: Kin) -> None:
    """A chunk that only others need is listed as that."""
    sample.delete(Table.BASE_ONLY, number_key(kin.held))
    assert sample.finding() == ("held", (), ())


@pytest.mark.parametrize("chunk", ["bottom", "derived", "none"])
def test_what_is_listed_as_held_and_is_not_is_found(sample: Sample, kin: Kin, chunk: str) -> None:
    """A chunk that a file needs is not held, nor is one that there is not."""
    number = {"bottom": kin.bottom, "derived": kin.derived, "none": ChunkId(1000)}[chunk]
    sample.put(Table.BASE_ONLY, number_key(number), b"")
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("held", Severity.ACCOUNT)


def test_a_held_chunk_that_is_listed_as_dead_is_found(sample: Sample, kin: Kin) -> None:
    """A chunk that gc would remove though another needs it is damage."""
    sample.put(Table.DEAD, number_key(kin.held), b"")
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("dead", Severity.DAMAGE)


@pytest.mark.parametrize("codec", [CodecId.ZSTD, CodecId.RAW])
def test_a_derived_chunk_with_another_codec_is_found(
    sample: Sample, kin: Kin, codec: CodecId
) -> None:
    """What is derived has the number of a derivation."""
    change(sample, kin.derived, codec=codec)
    found = sample.findings(data=False)[0]
    assert (found.invariant, found.files, found.tensors) == ("chunk-form", (TOP,), ("t1",))


# -- chains


def test_a_circle_is_found(box: Box) -> None:
    """Chunks that derive from each other cannot be read; their content is not tried."""
    half = 2048
    one, two = noise(4096), noise(4096)[half:] + noise(4096)[:half]
    files = stored_file(box.store, b"1", one), stored_file(box.store, b"2", two)
    chunks = [chunk_at(box.store, each) for each in files]
    for chunk, source in (chunks, chunks[::-1]):
        derive(box.store, chunk, (source, half, half), (source, 0, half))
    found = check(box.store, data=True)
    assert [(each.invariant, each.severity) for each in found] == [("chain", Severity.DAMAGE)] * 2
    assert {path for each in found for path in each.files} == {b"/1", b"/2"}
    for name, data in ((b"3", one), (b"4", two)):
        stored_file(box.store, name, data)


def test_a_long_chain_is_found(box: Box) -> None:
    """A chunk with too long a chain reads right, and is reported once."""
    whole = noise(4096)
    files = [stored_file(box.store, b"%d" % n, whole[: 4096 - n]) for n in range(CHAIN_MAX + 2)]
    chunks = [chunk_at(box.store, each) for each in files]
    for number in range(1, len(chunks)):
        derive(box.store, chunks[number], (chunks[number - 1], 0, 4096 - number))
    (found,) = check(box.store, data=True)
    assert (found.invariant, found.severity) == ("chain", Severity.ACCOUNT)
    derive(box.store, chunks[-1], (chunks[0], 0, 4096 - CHAIN_MAX - 1))


# -- content


def test_a_damaged_source_hurts_what_derives_from_it(sample: Sample, kin: Kin) -> None:
    """It is one finding, of all files and tensors, and says which chunk and file is the base."""
    record = sample.store.chunks.record(kin.bottom)
    overwrite(sample.pack, record.offset + 7, b"damaged")
    (found,) = sample.findings()
    assert (found.invariant, set(found.files)) == ("content", {BOTTOM, TOP})
    assert found.tensors == ("t0", "t1")
    assert "derive from it: 1; it is in /bottom.safetensors: t0" in found.message


def test_a_damaged_held_source_hurts_what_derives_from_it(sample: Sample, kin: Kin) -> None:
    """Damage of a chunk that no file uses is reported with the files that derive from it."""
    record = sample.store.chunks.record(kin.held)
    overwrite(sample.pack, record.offset + 7, b"damaged")
    (found,) = sample.findings()
    assert (found.invariant, found.files, found.tensors) == ("content", (TOP,), ("t2",))
    assert "it is in no file" in found.message


def test_a_damaged_recipe_hurts_who_uses_it(sample: Sample, kin: Kin) -> None:
    """Damage of a recipe is no damage of its source."""
    record = sample.store.chunks.record(kin.derived)
    overwrite(sample.pack, record.offset, b"\x07")
    assert sample.finding() == ("content", (TOP,), ("t1",))


def test_damage_of_a_source_is_known_far_up(box: Box) -> None:
    """A whole chain is named, whatever its length; scrubbing tells the same as fsck."""
    whole = noise(4096)
    files = [stored_file(box.store, b"%d" % n, whole[: 4096 - n]) for n in range(CHAIN_MAX + 1)]
    chunks = [chunk_at(box.store, each) for each in files]
    for number in range(1, len(chunks)):
        derive(box.store, chunks[number], (chunks[number - 1], 0, 4096 - number))
    record = box.store.chunks.record(chunks[0])
    overwrite(pack_path(box.store.packs, record.pack), record.offset, b"damaged")
    names = {b"/%d" % number for number in range(CHAIN_MAX + 1)}
    (found,) = check(box.store, data=True)
    assert set(found.files) == names
    Scrubber(box.store).begin()
    scrub(box.store)
    (finding,) = scrub_report(box.store)["findings"]
    assert {name.encode() for name in finding["files"]} == names
    assert finding["message"].startswith(f"chunk {chunks[0]}: damaged")
    assert "derive from it: 4; it is in /0" in finding["message"]
    stored_file(box.store, b"good", whole)


def test_a_recipe_that_tells_otherwise_is_found(sample: Sample, kin: Kin) -> None:
    """That a recipe's sources are those that the index has is checked when it is read."""
    for chunk, source in ((kin.derived, kin.held), (kin.orphan, kin.bottom)):
        with sample.store.index.change():
            sample.store.chunks.lineage.link(chunk, source)
            for old in sample.store.chunks.lineage.sources(chunk):
                if old != source:
                    sample.store.chunks.lineage.unlink(chunk, old)
    found = sample.findings()
    assert [(each.invariant, each.files) for each in found] == [("content", (TOP,))] * 2
    assert {each.tensors for each in found} == {("t1",), ("t2",)}


def test_a_proof_that_is_not_the_contents_is_found(sample: Sample, kin: Kin) -> None:
    """Content is held against its proof, plain or derived."""
    change(sample, kin.derived, content_checksum=1)
    assert sample.finding() == ("content", (TOP,), ("t1",))


def test_every_kind_is_there(sample: Sample) -> None:
    """What the tests above damage is what they take it for."""
    kin = Kin(sample)
    kinds = [sample.store.chunks.record(each).kind for each in (kin.derived, kin.orphan, kin.held)]
    assert kinds == [ChunkKind.DERIVED, ChunkKind.DERIVED, ChunkKind.PLAIN]
    rows = [number_of(key) for key, _ in sample.store.index.pages(Table.SOURCES)]
    assert rows == sorted([kin.derived, kin.orphan])
    sample.store.abandon()
