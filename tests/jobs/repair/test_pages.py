"""Repair of an index with damaged pages: a new one has all rows that can be read."""

import random
import shutil
from pathlib import Path

import pytest

from modelfs.errors import DamagedPages, FolderMissing
from modelfs.jobs.check.fsck import check
from modelfs.jobs.repair import pages as repair_module
from modelfs.jobs.repair.pages import SalvagedRows
from modelfs.jobs.repair.quarantine import FOLDER
from modelfs.jobs.repair.run import RepairReport, repair
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import INDEX, PACKS, STAGING
from modelfs.store.index.pages.layout import BRANCH, PageFile
from modelfs.store.index.pages.sums import drop_sums
from modelfs.store.index.pages.uses import Use
from modelfs.store.index.pages.walk import FREE, TABLES, PageWalk
from modelfs.store.index.tables import Table, number_key
from modelfs.store.store import Store
from tests.support.byte_damage import Contents, files_of, lost_files
from tests.support.index_pages import SIZE, data_file, leaves_of, walk_of
from tests.support.run_jobs import ingest_file
from tests.support.sample_store import CHUNK, Sample
from tests.support.stores import new_file, noise, overwrite, stored_file


@pytest.fixture
def closed(sample: Sample) -> Path:
    """The path of a sample that no process has open."""
    sample.store.abandon()
    return sample.path


def walk(store: Path) -> PageWalk:
    return walk_of(data_file(store))


def destroy(store: Path, page: int) -> None:
    overwrite(data_file(store), page * SIZE, bytes(SIZE))


def branch_of(store: Path) -> int:
    """Return the root of the table of chunks, the only one of two levels."""
    with PageFile(Directory(store / INDEX)) as file:
        used = walk(store).uses.pages(Use.TREE)
        (branch,) = [page for page in used if file.kind(page)[0] == BRANCH]
        return branch


def mended(store: Path) -> RepairReport:
    """Repair a store whose index cannot be opened; it is sound then, and the old index is kept."""
    before = data_file(store).read_bytes()
    with pytest.raises(DamagedPages):
        Store(store)
    assert data_file(store).read_bytes() == before
    report = repair(store, data=True)
    assert report.after.findings == []
    assert {"page"} <= {finding.invariant for finding in report.found}
    assert (store / FOLDER / "data.mdb").read_bytes() == before
    with Store(store, read_only=True) as opened:
        assert check(opened, data=True) == []
    return report


def test_leaves_below_a_lost_branch_come_back(closed: Path, good: Contents) -> None:
    """All rows of a table whose root is gone are found again, and nothing is lost."""
    destroy(closed, branch_of(closed))
    report = mended(closed)
    assert files_of(closed) == good
    assert lost_files(report) == set()
    assert [finding.invariant for finding in report.found] == ["page"]


def test_leaves_of_older_commits_do_not_come_back(sample: Sample, good: Contents) -> None:
    """Pages that the last commit freed are in the file, and none of their rows is believed."""
    for number in range(3):
        sample.put(
            Table.CHUNKS, number_key(1000 + number), sample.value(Table.CHUNKS, bytes(7) + b"\1")
        )
        sample.store.index.commit()
    for number in range(3):
        sample.delete(Table.CHUNKS, number_key(1000 + number))
        sample.store.index.commit()
    sample.store.abandon()
    destroy(sample.path, branch_of(sample.path))
    mended(sample.path)
    assert files_of(sample.path) == good


def test_without_the_list_of_free_pages_none_is_believed(closed: Path) -> None:
    """A leaf that may be of an older commit is not used."""
    destroy(closed, branch_of(closed))
    destroy(closed, walk(closed).leaves[FREE][0].number)
    with PageFile(Directory(closed / INDEX)) as file:
        rows = SalvagedRows(file, walk(closed), with_checksums=True)
        assert not rows.has_all_leaves
        assert list(rows.of(Table.CHUNKS)) == []
    report = mended(closed)
    # The records of chunks are made again from the packs.
    assert None not in files_of(closed).values() or lost_files(report)


@pytest.mark.parametrize(
    "table", [table for table in Table if table not in (Table.LOST, Table.TRIMS)]
)
def test_a_lost_leaf_is_never_other_bytes(closed: Path, good: Contents, table: Table) -> None:
    """Without a table's rows, each file reads as before, or fails and is named."""
    for place in walk(closed).leaves[table]:
        destroy(closed, place.number)
    report = mended(closed)
    named = lost_files(report) | {path for each in report.found for path in each.files}
    found = files_of(closed)
    for path, data in good.items():
        got = found.get(path)
        if got != data:
            assert path in named, path
            # Without its inode's row, the size of a file is that of its map.
            assert got is None or (table is Table.INODES and got.startswith(data or b"")), path


def test_the_tree_of_tables_is_lost(sample: Sample, good: Contents) -> None:
    """Then the index goes back to the commit before, if it is not known which leaf is whose."""
    for note in (b"one", b"two"):  # the commit before the last has all files, too
        sample.store.attributes.put(sample.text, b"user.note", note)
        sample.store.commit()
    sample.store.abandon()
    destroy(sample.path, walk(sample.path).leaves[TABLES][0].number)
    report = mended(sample.path)
    assert files_of(sample.path) == good
    assert lost_files(report) == set()


def test_a_file_that_was_cut(closed: Path, good: Contents) -> None:
    """What lies before the cut is kept."""
    last = walk(closed).uses.pages(Use.TREE)[-1]
    with data_file(closed).open("r+b") as file:
        file.truncate(last * SIZE + 100)
    mended(closed)
    for path, data in files_of(closed).items():
        assert data in (None, good.get(path, data)), path


@pytest.mark.parametrize("where", ["write_new", "replace_data_file", "after"])
def test_an_interrupted_salvage_is_begun_again(
    closed: Path, good: Contents, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at any time leaves the damaged index or the new one; the next repair is complete."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    destroy(closed, branch_of(closed))
    with monkeypatch.context() as patch:
        if where == "after":
            patch.setattr("modelfs.jobs.repair.run.restore_superblock", interrupt)
        else:
            patch.setattr(repair_module, where, interrupt)
        with pytest.raises(KeyboardInterrupt):
            repair(closed, data=True)
    assert repair(closed, data=True).after.findings == []
    assert files_of(closed) == good
    copies = list((closed / FOLDER).glob("data.mdb*"))
    assert len(copies) == 1


def test_no_room_for_a_new_index(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room nothing is changed."""

    def full(*_: object) -> None:
        raise OSError(28, "no space")

    destroy(closed, branch_of(closed))
    before = shutil.copytree(closed, closed.with_name("before"))
    with monkeypatch.context() as patch:
        patch.setattr(repair_module, "write_new", full)
        with pytest.raises(OSError, match="no space"):
            repair(closed)
    assert data_file(closed).read_bytes() == data_file(before).read_bytes()
    assert not (closed / FOLDER).exists()


@pytest.mark.parametrize(("table", "name"), [(Table.STAGED, STAGING), (Table.META, PACKS)])
def test_a_missing_folder_of_files(closed: Path, table: Table, name: str) -> None:
    """A repair that needs its files names the folder; when they are there, it is complete."""
    for place in walk(closed).leaves[table]:
        destroy(closed, place.number)
    elsewhere = (closed / name).rename(closed.with_name(name))
    with pytest.raises(FolderMissing, match=f"mkdir -m 700 {closed / name}"):
        repair(closed)
    elsewhere.rename(closed / name)
    assert repair(closed, data=True).after.findings == []
    with Store(closed, read_only=True) as opened:
        assert check(opened, data=True) == []


def test_a_lost_write_brings_no_old_bytes_back(sample: Sample) -> None:
    """A page of extents is as an older commit left it; that commit's chunks are still there."""
    contents = [noise(CHUNK, 31), noise(CHUNK, 32)]
    for number, content in enumerate(contents):
        stored_file(sample.store, b"keeps %d" % number, content)
    inode = new_file(sample.store, b"changes")
    seen: dict[int, bytes] = {}  # the leaf of the extents, as an earlier commit wrote it
    chance = random.Random(1)
    while True:
        sample.store.writes.write(inode, 0, chance.choice(contents))
        ingest_file(sample.store, inode)
        sample.store.commit()
        (lost,) = leaves_of(sample.path, Table.EXTENTS)
        page = data_file(sample.path).read_bytes()[lost * SIZE :][:SIZE]
        if seen.setdefault(lost, page) != page:
            break
    sample.store.close()
    good = files_of(sample.path)
    overwrite(data_file(sample.path), lost * SIZE, seen[lost])
    report = mended(sample.path)
    assert f"page {lost} of the index (extents): it is not what the last commit wrote" in {
        finding.message for finding in report.found
    }
    found = files_of(sample.path)
    named = lost_files(report) | {path for each in report.found for path in each.files}
    assert {path for path in good if found.get(path) != good[path]} <= named
    assert all(found.get(path) in (None, data) for path, data in good.items())


@pytest.mark.parametrize("with_sums", [True, False])
def test_rows_beside_a_bad_overflow_page(sample: Sample, *, with_sums: bool) -> None:
    """A bit of its head flips. With sums, the value there may be an older one, and is lost."""
    attributes, text = sample.store.attributes, sample.text
    with sample.store.index.change():
        attributes.put(text, b"user.large", b"v" * 9000)
        attributes.put(text, b"user.small", b"w" * 90)
    sample.store.close()
    if not with_sums:
        drop_sums(Directory(sample.path / INDEX))
    data = data_file(sample.path).read_bytes()
    page = data.index(b"v" * 1000) // SIZE
    overwrite(data_file(sample.path), page * SIZE + 15, b"\x01")  # 2^24 pages more
    mended(sample.path)
    with Store(sample.path, read_only=True) as store:
        names = {*store.attributes.names(text)}
        assert b"user.small" in names
        assert (b"user.large" in names) is not with_sums
