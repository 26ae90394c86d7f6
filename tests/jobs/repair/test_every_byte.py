"""Repair of bytes: lost ones fail to read, are reported, and come back with a good copy."""

import dataclasses
from pathlib import Path

import pytest

from modelfs.errors import IndexLost
from modelfs.jobs.check.findings import Finding
from modelfs.jobs.check.fsck import check, fsck
from modelfs.jobs.check.view import CheckView
from modelfs.jobs.repair import run as repair_module
from modelfs.jobs.repair.pack_files import read_segment_tables
from modelfs.jobs.repair.quarantine import FOLDER
from modelfs.jobs.repair.run import Outcome, repair
from modelfs.store.folder import INDEX
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.pages.data_file import DATA_FILE
from modelfs.store.index.tables import ROOT, Table, number_key, pair_key
from modelfs.store.store import Store
from tests.support.byte_damage import (
    PIECE,
    Contents,
    bytes_of,
    check_losses,
    files_of,
    lost_files,
    lost_in,
    mend,
    state_of,
    unreadable,
    write_again,
)
from tests.support.meta_fields import forget_records, last_meta, wipe
from tests.support.run_jobs import collect, ingest_all, ingest_file
from tests.support.sample_store import BASE, CHUNK, PACK, SHARERS, WORDS, Sample, fill
from tests.support.stores import (
    content_of,
    names_in,
    new_file,
    new_store,
    noise,
    overwrite,
    pack_path,
)

TEXT = b"/folder/text"
STAGED = b"/staged"


# -- chunks


def flip(sample: Sample, offset: int) -> None:
    """Damage the chunk that has a byte of the base model."""
    _, record = sample.chunk_at(sample.base, offset)
    overwrite(sample.pack, record.offset + 100, b"damaged")


def test_a_flipped_bit_costs_a_tensor_its_chunk(sample: Sample, good: Contents) -> None:
    """Reads of the damaged range fail in every file that has it; all else reads as before."""
    flip(sample, 1000)
    report = mend(sample)
    (lost,) = [each for each in report.actions if each.outcome is Outcome.QUARANTINED]
    assert (set(lost.files), lost.tensors) == (set(SHARERS), (WORDS,))
    failed = unreadable(sample.path, BASE, bytes_of(good, BASE))
    assert 0 < len(failed) <= CHUNK // PIECE + 1
    assert check_losses(files_of(sample.path), good, report) == set(SHARERS)
    assert list((sample.path / FOLDER).glob("chunk-*"))


def test_known_loss_is_no_finding(sample: Sample) -> None:
    """A later check finds the store sound, and names the files with lost data."""
    flip(sample, 1000)
    mend(sample)
    with Store(sample.path, read_only=True) as store:
        report = fsck(store, data=True)
    assert report.findings == []
    assert (report.lost.chunks, report.lost.bytes) == (1, 3 * CHUNK)
    impact = report.lost.impact
    assert (set(impact.files), set(impact.tensors)) == (set(SHARERS), {WORDS})


def test_a_good_copy_heals_every_file(sample: Sample, good: Contents) -> None:
    """A file written again brings back what was lost of all that share its chunks."""
    flip(sample, 1000)
    mend(sample)
    assert lost_in(sample.path) == (1, 3 * CHUNK)
    write_again(sample.path, b"copy", bytes_of(good, BASE))
    assert lost_in(sample.path) == (0, 0)
    assert files_of(sample.path) == {**good, b"/copy": good[BASE]}
    with Store(sample.path) as store:
        assert check(store, data=True) == []


def test_a_lost_coded_chunk_is_healed_too(sample: Sample, good: Contents) -> None:
    """The same of text, which is stored compressed."""
    _, record = sample.chunk_at(sample.text, 0)
    assert record.kind is ChunkKind.CODED
    overwrite(sample.pack, record.offset + 5, b"damaged")
    mend(sample)
    assert files_of(sample.path)[TEXT] is None
    write_again(sample.path, b"copy", bytes_of(good, TEXT))
    assert files_of(sample.path) == {**good, b"/copy": good[TEXT]}


def test_lost_chunks_go_with_their_last_file(sample: Sample, good: Contents) -> None:
    """Gc passes over lost chunks, and removes them when nothing uses them any more."""
    flip(sample, 1000)
    mend(sample)
    with Store(sample.path) as store:
        ingest_all(store)
        for path in SHARERS:
            store.namespace.unlink(ROOT, path[1:])
        collect(store)
        assert not any(record.is_lost for _, record in CheckView(store).chunks())
        assert check(store, data=True) == []
        assert content_of(store, sample.text) == good[TEXT]


def test_a_wrong_record_never_gives_other_bytes(sample: Sample, good: Contents) -> None:
    """A record that leads to another chunk's bytes, checksum and all, is not believed."""
    chunk, record = sample.chunk_at(sample.base, 1000)
    _, other = sample.chunk_at(sample.base, 500_000)
    wrong = dataclasses.replace(other, digest=record.digest, refs=3, ref_bytes=record.ref_bytes)
    sample.put_chunk(chunk, wrong)
    mend(sample)
    assert files_of(sample.path) == good


# -- packs


def test_a_missing_pack_costs_what_was_in_it(sample: Sample, good: Contents) -> None:
    """All files keep their names and sizes; bytes in other packs still read."""
    sample.pack.unlink()
    report = mend(sample, data=False)
    failed = check_losses(files_of(sample.path), good, report)
    assert failed == set(good) - {STAGED}
    for path in good:
        write_again(sample.path, path.replace(b"/", b"-"), bytes_of(good, path))
    found = files_of(sample.path)
    # Of `/cut` there are ten bytes of a chunk: too little to tell that they are right.
    assert {path for path in good if found[path] != good[path]} == {b"/cut"}


@pytest.mark.parametrize("cut", [100, 4096, 5000, 500_000])
def test_a_short_pack_costs_what_was_behind(sample: Sample, good: Contents, cut: int) -> None:
    """A pack that was cut keeps what lies before the cut, be it in the middle of a segment."""
    _, record = sample.chunk_at(sample.base, 500_000)
    with sample.pack.open("r+b") as file:
        file.truncate(cut if cut < 500_000 else record.offset)
    report = mend(sample, data=False)
    failed = check_losses(files_of(sample.path), good, report)
    assert BASE in failed
    whole = unreadable(sample.path, BASE, bytes_of(good, BASE))
    assert (1000 // PIECE not in whole) == (cut == 500_000)


def test_a_pack_may_lose_its_row_and_bytes(sample: Sample, good: Contents) -> None:
    """A damaged pack that no row knows is not taken for one that is back."""
    flip(sample, 1000)
    overwrite(sample.pack, read_segment_tables(sample.store.packs, PACK).ends[1] + 24, b"damaged")
    sample.delete(Table.PACKS, number_key(PACK))
    report = mend(sample)
    assert check_losses(files_of(sample.path), good, report) >= set(SHARERS)


def second_pack(sample: Sample) -> tuple[Path, Path]:
    """Give the store a second pack, and return both."""
    sample.store.packs.seal(PACK)
    new_file(sample.store, b"more", noise(3 * CHUNK, 9))
    ingest_all(sample.store)
    return sample.pack, pack_path(sample.store.packs, max(sample.store.packs.numbers()))


def test_swapped_packs_change_places_again(sample: Sample, good: Contents) -> None:
    """Packs say which they are: two that have each other's names lose nothing."""
    one, two = second_pack(sample)
    one.rename(one.with_suffix(".x"))
    two.rename(one)
    one.with_suffix(".x").rename(two)
    report = mend(sample)
    assert {each.invariant for each in report.found} >= {"pack-file"}
    assert files_of(sample.path) == {**good, b"/more": noise(3 * CHUNK, 9)}
    assert lost_files(report) == set()


def test_a_pack_under_another_name_is_found(sample: Sample, good: Contents) -> None:
    """A pack that was renamed is not missing."""
    sample.pack.rename(sample.pack.with_name("00000001.pack.old"))
    mend(sample)
    assert files_of(sample.path) == good


def test_a_pack_of_another_store_is_set_aside(
    sample: Sample, good: Contents, tmp_path: Path
) -> None:
    """Nothing is read from it, and it is kept."""
    path = new_store(tmp_path, chunk_size=CHUNK)
    fill(path)
    pack_path_of_other = path / "packs" / sample.pack.name
    pack_path_of_other.replace(sample.pack)
    report = mend(sample)
    check_losses(files_of(sample.path), good, report)
    assert (sample.path / FOLDER / sample.pack.name).is_file()


@pytest.mark.parametrize("stop", [None, 4096 + 8192])
def test_opening_a_store_deletes_nothing_that_is_needed(
    sample: Sample, good: Contents, stop: int | None
) -> None:
    """A pack without a row, or with one that says it ended inside a segment, stays as it is."""
    if stop is None:
        sample.delete(Table.PACKS, number_key(PACK))
    else:
        sample.put_row(dataclasses.replace(sample.row(), stop=stop))
    sample.store.index.commit()
    sample.store.abandon()
    Store(sample.path).close()
    report = repair(sample.path)
    assert (files_of(sample.path), lost_files(report)) == (good, set())


# -- missing extents


def test_a_missing_extent_is_no_hole(sample: Sample, good: Contents) -> None:
    """A hole where the chunks still count an extent is not read as zeros, and is named."""
    extent = sample.extents(sample.base)[1]
    sample.delete(Table.EXTENTS, pair_key(sample.base, extent.start))
    report = mend(sample)
    found = [each for each in report.found if each.invariant == "map-hole"]
    assert [(each.files, each.tensors) for each in found] == [((BASE,), (WORDS,))]
    assert check_losses(files_of(sample.path), good, report) == {BASE}


def test_a_missing_extent_of_a_damaged_chunk_is_no_hole(sample: Sample, good: Contents) -> None:
    """Nor is one whose chunk is damaged too, and is removed since no extent needs it."""
    extent = next(each for each in sample.extents(sample.base) if each.stop > 500_000)
    record = sample.store.chunks.record(extent.chunk)
    assert record.refs == 1
    overwrite(sample.pack, record.offset + 100, b"damaged")
    sample.delete(Table.EXTENTS, pair_key(sample.base, extent.start))
    report = mend(sample)
    assert check_losses(files_of(sample.path), good, report) == {BASE}
    failed = unreadable(sample.path, BASE, bytes_of(good, BASE))
    assert failed == {*range(extent.start // PIECE, (extent.stop - 1) // PIECE + 1)}


def test_a_stray_row_explains_no_missing_extent(sample: Sample, good: Contents) -> None:
    """A row of no file that does not decode keeps no hole from being taken for what it is."""
    extent = sample.extents(sample.base)[1]
    sample.delete(Table.EXTENTS, pair_key(sample.base, extent.start))
    sample.put(Table.EXTENTS, pair_key(1000, 0), b"junk!")
    report = mend(sample)
    assert check_losses(files_of(sample.path), good, report) == {BASE}


def test_a_missing_extent_next_to_a_damaged_one(sample: Sample, good: Contents) -> None:
    """Both ranges fail to read, that of a row that does not decode and that without a row."""
    first, second = sample.extents(sample.base)[1:3]
    sample.put(Table.EXTENTS, pair_key(sample.base, first.start), b"junk!")
    sample.delete(Table.EXTENTS, pair_key(sample.base, second.start))
    report = mend(sample)
    assert check_losses(files_of(sample.path), good, report) == {BASE}
    failed = unreadable(sample.path, BASE, bytes_of(good, BASE))
    assert failed == {*range(first.start // PIECE, (second.stop - 1) // PIECE + 1)}


def test_extents_of_a_lost_record_explain_no_missing_extent(sample: Sample, good: Contents) -> None:
    """Extents of a chunk whose record is gone are right, and are not what another chunk misses."""
    missing = next(each for each in sample.extents(sample.base) if each.stop > 500_000)
    sample.delete(Table.EXTENTS, pair_key(sample.base, missing.start))
    chunk, record = sample.chunk_at(sample.base, 1000)
    overwrite(sample.pack, record.offset + 100, b"damaged")
    sample.put(Table.CHUNKS, number_key(chunk), b"junk!")
    report = mend(sample)
    found = files_of(sample.path)
    (kept,) = found.keys() - good.keys()
    assert found.pop(kept) == bytes_of(good, BASE)[missing.start : missing.stop]
    assert check_losses(found, good, report) == set(SHARERS)
    failed = unreadable(sample.path, BASE, bytes_of(good, BASE))
    assert failed >= {*range(missing.start // PIECE + 1, missing.stop // PIECE)}


@pytest.mark.parametrize("has_record", [True, False])
def test_a_damaged_row_behind_the_end_costs_no_other_file(tmp_path: Path, has_record: bool) -> None:
    """An extent behind a file's end, whose row does not decode, is not missing in other files."""
    path = new_store(tmp_path, chunk_size=CHUNK)
    sparse = noise(CHUNK, 1) + bytes(CHUNK // 2) + noise(CHUNK, 2)
    with Store(path) as store:
        inode = new_file(store, b"sparse", sparse[:CHUNK])
        store.writes.write(inode, 3 * CHUNK // 2, sparse[3 * CHUNK // 2 :])
        other = new_file(store, b"other", noise(3 * CHUNK, 3))
        ingest_all(store)
        if has_record:  # the cut is flushed, and the extents behind it are still in the map
            store.writes.truncate(other, 100)
            store.flush(other)
        store.commit()
        with store.index.change():
            store.index.put(Table.EXTENTS, pair_key(other, 2 * CHUNK), b"junk!")
            if not has_record:  # a new record ends with the last extent that decodes
                store.index.put(Table.INODES, number_key(other), b"junk!")
    report = repair(path, data=True)
    assert report.found != []
    assert report.after.findings == []
    assert b"/sparse" not in lost_files(report)
    assert files_of(path)[b"/sparse"] == sparse


# -- staging files


def test_stale_staging_files_are_removed(sample: Sample, good: Contents) -> None:
    """A staging file that no row mentions is gone when the store was opened, and no other."""
    stale = sample.store.staging.directory.path / "63-0-63"
    stale.write_bytes(b"half a window")
    sample.store.abandon()
    with Store(sample.path):
        assert not stale.exists()
    assert files_of(sample.path) == good


# -- the index's own pages


@pytest.mark.parametrize("number", [0, 1])
def test_a_torn_meta_page_is_restored(sample: Sample, good: Contents, number: int) -> None:
    """With one meta page damaged the index is what the other's commit made it."""
    for note in (b"one", b"two"):  # whichever of the pages is the newer one, nothing else is lost
        sample.store.attributes.put(sample.text, b"user.note", note)
        sample.store.commit()
    sample.store.abandon()
    overwrite(sample.path / INDEX / DATA_FILE, number * 4096, bytes(100))
    report = repair(sample.path, data=True)
    assert [each.invariant for each in report.found] == ["meta-page"]
    assert report.after.findings == []
    assert (sample.path / FOLDER / "data.mdb").is_file()
    assert files_of(sample.path) == good
    assert repair(sample.path).found == []


def test_the_last_commit_goes_with_its_meta_page(sample: Sample, good: Contents) -> None:
    """What only the last commit knew is lost: a file that it took in fails to read, and says so."""
    store = sample.store
    store.packs.seal(PACK)
    inode = new_file(store, b"late", noise(3 * CHUNK, 9))
    store.flush(inode)
    store.commit()
    ingest_file(store, inode)
    store.commit()  # and deletes the staging file that the commit before needs
    number = max(store.packs.numbers())
    store.abandon()
    path = sample.path / INDEX / DATA_FILE
    newest = last_meta(path).transaction & 1
    forget_records(path)
    wipe(path, newest)
    report = repair(sample.path, data=True)
    assert report.after.findings == []
    assert b"/late" in lost_files(report)
    assert files_of(sample.path) == {**good, b"/late": None}
    assert pack_path(store.packs, number).name in names_in(sample.path / FOLDER)


def test_an_index_without_any_meta_page_is_given_up(sample: Sample) -> None:
    """Nothing is changed, and the error names the file that is lost."""
    sample.store.abandon()
    overwrite(sample.path / INDEX / DATA_FILE, 0, bytes(8192))
    before = state_of(sample.path)
    with pytest.raises(IndexLost, match="both meta pages"):
        repair(sample.path)
    assert state_of(sample.path) == before


# -- interruptions


@pytest.mark.parametrize("where", ["before", "commit", "after"])
def test_an_interrupted_repair_is_begun_again(
    sample: Sample, good: Contents, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at any time leaves the store as it was or repaired; the next repair is complete."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    overwrite(sample.pack, 4096 + 24, b"damaged")
    flip(sample, 500_000)
    sample.store.abandon()
    with monkeypatch.context() as patch:
        if where == "before":
            patch.setattr(repair_module, "recount_totals", interrupt)  # the last pass
        elif where == "commit":
            patch.setattr("modelfs.store.index.committed.CommittedRows.write", interrupt)
        else:
            patch.setattr("modelfs.jobs.repair.quarantine.Quarantine.move_files", interrupt)
        with pytest.raises(KeyboardInterrupt):
            repair(sample.path, data=True)
    if where == "before":
        assert [path.name for path in sample.pack.parent.iterdir()] == [sample.pack.name]
    report = repair(sample.path, data=True)
    assert report.after.findings == []
    found = files_of(sample.path)
    assert {path for path, data in found.items() if data is None} == {BASE}
    assert {path: data for path, data in found.items() if data is not None} == {
        path: data for path, data in good.items() if path != BASE
    }


def test_a_full_disk_leaves_the_store_as_it_was(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copying intact chunks needs room; without it, nothing is changed."""

    def full(*_: object) -> None:
        raise OSError(28, "no space")

    overwrite(sample.pack, 8, b"damaged!")
    findings: list[Finding] = sample.findings()
    with monkeypatch.context() as patch:
        patch.setattr("modelfs.store.packs.pack.write_at", full)
        with pytest.raises(OSError, match="no space"):
            repair(sample.path)
    with Store(sample.path, read_only=True) as store:
        assert check(store, data=True) == findings
    assert repair(sample.path).after.findings == []


def test_a_pack_that_comes_back(sample: Sample, good: Contents) -> None:
    """What was lost with a pack is found again when its file is put back; nothing deletes it."""
    away = sample.pack.rename(sample.path / "away")
    mend(sample)
    assert lost_in(sample.path)[0] > 0
    away.rename(sample.path / "packs" / sample.pack.name)
    Store(sample.path).close()
    with Store(sample.path, read_only=True) as store:
        assert {finding.invariant for finding in check(store)} == {"pack-back"}
    assert repair(sample.path, data=True).after.findings == []
    assert lost_in(sample.path) == (0, 0)
    assert files_of(sample.path) == good
