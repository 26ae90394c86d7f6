"""The check as a whole: its counts, and no finding for the usual leftovers of a crash."""

from modelfs.jobs.check.fsck import check, fsck
from modelfs.store.index.counters import FILES
from modelfs.store.index.tables import Table, number_key
from tests.support.sample_store import CHUNK, Sample
from tests.support.stores import new_file, noise, pack_path


def test_a_sound_store_gives_no_finding(sample: Sample) -> None:
    """A store with orphans, dead chunks, staged ranges and a truncation under way is sound."""
    for table in set(Table) - {Table.LOST}:  # of disks that failed
        assert list(sample.store.index.pages(table)), table
    assert sample.findings() == []


def test_an_open_store_is_checked_as_it_is(sample: Sample) -> None:
    """A store that is open for writing is checked with what no commit has made durable yet."""
    new_file(sample.store, b"new")
    assert check(sample.store, data=True) == []
    sample.put(Table.ORPHANS, number_key(1000), b"")
    assert [each.invariant for each in check(sample.store)] == ["orphan"]
    sample.store.abandon()


def test_the_report_counts_what_was_looked_at(sample: Sample) -> None:
    """With `data`, every stored byte that a file uses is read, and progress ends at all of them."""
    calls: list[tuple[int, int]] = []
    report = fsck(sample.store, data=True, progress=lambda done, total: calls.append((done, total)))
    live = sample.row().live
    assert (report.findings, report.bytes_checked, calls[-1]) == ([], live, (live, live))
    assert report.files == sample.store.counters.get(FILES)
    sample.store.abandon()


def test_without_data_progress_is_in_invariants(sample: Sample) -> None:
    """Without `data`, progress goes up by one for each invariant, and ends when all are done."""
    calls: list[tuple[int, int]] = []
    report = fsck(sample.store, progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == list(range(1, calls[-1][1] + 1))
    assert report.bytes_checked == 0
    sample.store.abandon()


def test_a_truncation_under_way_is_sound(sample: Sample) -> None:
    """Extents behind a truncation may be there for as long as a row says where it is."""
    assert sample.node(sample.cut).size == 10
    assert list(sample.store.maps.overlapping(sample.cut, CHUNK, 2 * CHUNK))
    assert sample.findings() == []


def test_unmentioned_files_are_sound(sample: Sample) -> None:
    """A crash may leave packs and staging files that no row mentions."""
    pack_path(sample.store.packs, 99).write_bytes(b"half a pack")
    (sample.store.staging.directory.path / "63-0-63").write_bytes(b"half a window")
    assert sample.findings() == []


def test_a_pack_may_be_longer_than_its_row(sample: Sample) -> None:
    """A crash may leave bytes behind the committed part of a pack."""
    with sample.pack.open("ab") as file:
        file.write(noise(1000))
    assert sample.findings() == []
