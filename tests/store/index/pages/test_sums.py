"""Sums of pages: a page that the disk did not write is found, although it was right once."""

import os
import random
import struct
from pathlib import Path

import pytest
from xxhash import xxh3_64_digest

from modelfs.errors import CorruptIndex, DamagedPages
from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from modelfs.store.index.pages import sums
from modelfs.store.index.pages.layout import BRANCH, NO_PAGE, PAGE_HEAD, PageFile, nodes_of
from modelfs.store.index.pages.meta import (
    SECTOR,
    Meta,
    newest,
    read_metas,
    read_records,
    record_close,
)
from modelfs.store.index.pages.sums import MAGIC, SUMS_FILE, PageSums, drop_sums
from modelfs.store.index.pages.uses import Use
from modelfs.store.index.rebuild import replace_data_file, write_new
from modelfs.store.index.tables import Table, number_key
from tests.support.index_pages import SIZE, walk_of
from tests.support.stores import overwrite

ROWS = 400
COMMITS = 12
LAST = COMMITS + 1  # the first commit makes the tables
PROBLEM = "it is not what the last commit wrote"


@pytest.fixture
def versions(tmp_path: Path) -> list[bytes]:
    """The data file of an index whose rows all change in every commit, after each commit."""
    found: list[bytes] = []
    index = Index(Directory(tmp_path))
    for commit in range(COMMITS):
        with index.change():
            for number in range(ROWS):
                index.put(Table.CHUNKS, number_key(number), bytes([commit]) * 80)
            index.put(Table.XATTRS, b"large", bytes([commit]) * 9000)
        index.commit()
        found.append((tmp_path / "data.mdb").read_bytes())
    index.close()
    record_close(Directory(tmp_path))
    return found


@pytest.fixture
def path(versions: list[bytes], tmp_path: Path) -> Path:
    """The data file, whose sums are recorded."""
    return tmp_path / "data.mdb"


def lose_write(path: Path, versions: list[bytes], pages: list[int]) -> int:
    """Put back one of some pages, as an older commit had it in the same place of the same tree."""
    current = path.read_bytes()
    for older in versions[:-1]:
        for number in pages:
            page, new = (data[number * SIZE :][:SIZE] for data in (older, current))
            if page[:8] == new[:8] != b"" and page[10:12] == new[10:12] and page != new:
                overwrite(path, number * SIZE, page)
                if [problem.page for problem in walk_of(path).problems] == [number]:
                    return number
                overwrite(path, number * SIZE, new)
    raise AssertionError("no page has been in the same place")


def test_a_lost_write_is_found(path: Path, versions: list[bytes]) -> None:
    """Although all rows of the page match their checksums, and its keys are where they belong."""
    leaves = [place.number for place in walk_of(path).leaves[Table.CHUNKS]]
    number = lose_write(path, versions, leaves)
    (problem,) = walk_of(path).problems
    assert (problem.page, problem.tree, problem.problem) == (number, Table.CHUNKS, PROBLEM)
    assert walk_of(path).stale == {number}
    with pytest.raises(DamagedPages, match=rf"page {number} of the index \(chunks\): {PROBLEM}"):
        Index(Directory(path.parent), read_only=True)
    drop_sums(Directory(path.parent))
    assert walk_of(path).problems == []  # without the record nothing can show it


def test_a_lost_write_of_one_of_few_leaves(tmp_path: Path) -> None:
    """Few leaves are checked one by one."""
    versions: list[bytes] = []
    index = Index(Directory(tmp_path))
    for commit in range(COMMITS):
        with index.change():
            index.put(Table.SYMLINKS, b"name", b"target %d" % commit)
        index.commit()
        versions.append((tmp_path / "data.mdb").read_bytes())
    index.close()
    record_close(Directory(tmp_path))
    path = tmp_path / "data.mdb"
    (leaf,) = walk_of(path).leaves[Table.SYMLINKS]
    assert lose_write(path, versions, [leaf.number]) == leaf.number


def test_a_lost_write_of_a_large_value(path: Path, versions: list[bytes]) -> None:
    """The pages of a value outside of the leaf are compared, too."""
    (leaf,) = walk_of(path).leaves[Table.XATTRS]
    (node,) = nodes_of(path.read_bytes()[leaf.number * SIZE :][:SIZE], leaf.number, 2)
    first = int.from_bytes(node.value, "little")
    current = path.read_bytes()[first * SIZE :][: 3 * SIZE]
    assert node.size == 9004
    older = [data[first * SIZE :][: 3 * SIZE] for data in versions[:-1]]
    lost = next(pages for pages in older if pages[:16] == current[:16] and pages != current)
    overwrite(path, first * SIZE, lost)
    (problem,) = walk_of(path).problems
    assert (problem.page, problem.tree) == (leaf.number, Table.XATTRS)
    assert problem.problem == f"its overflow page {first} is not what the last commit wrote"


def test_a_damaged_row_is_none_of_its_page(path: Path) -> None:
    """It does not match its own checksum: its reads fail, and all other rows can be read."""
    place = walk_of(path).leaves[Table.CHUNKS][3]
    overwrite(path, place.number * SIZE + SIZE - 20, b"\xff")
    assert walk_of(path).problems == []
    index = Index(Directory(path.parent), read_only=True)
    damaged: set[bytes] = set()
    rows = index.scan(Table.CHUNKS, b"", b"\xff", ROWS + 1, damaged=damaged)
    assert (len(rows), len(damaged)) == (ROWS - 1, 1)
    with pytest.raises(CorruptIndex, match="checksum"):
        index.get(Table.CHUNKS, *damaged)
    index.close()


def test_any_change_of_a_branch_is_found(path: Path) -> None:
    """A key that is still in order would hide the rows between it and the right one."""
    with PageFile(Directory(path.parent)) as file:
        used = walk_of(path).uses.pages(Use.TREE)
        (branch,) = [page for page in used if file.kind(page)[0] == BRANCH]
        key = nodes_of(file.read(branch), branch, BRANCH)[2].key
    at = path.read_bytes().index(key, branch * SIZE)
    overwrite(path, at, number_key(int.from_bytes(key) - 1))
    assert [problem.problem for problem in walk_of(path).problems] == [PROBLEM]


def test_unused_bytes_do_not_matter(path: Path) -> None:
    """Those between the head and the nodes of a page."""
    data = path.read_bytes()
    for place in walk_of(path).leaves[Table.CHUNKS]:
        _, _, _, lower, upper = PAGE_HEAD.unpack_from(data, place.number * SIZE)
        if lower < upper:
            overwrite(path, place.number * SIZE + lower, os.urandom(upper - lower))
    assert walk_of(path).problems == []


@pytest.mark.parametrize("damage", ["none", "cut", "empty", "flip", "longer", "uneven", "link"])
def test_a_record_that_is_not_whole(path: Path, damage: str, tmp_path: Path) -> None:
    """It is ignored."""
    assert recorded(path).differs(2, bytes(SIZE))
    record = path.parent / SUMS_FILE
    data = record.read_bytes()
    match damage:
        case "none":
            record.unlink()
        case "cut":
            os.truncate(record, len(data) // 2)
        case "empty":
            os.truncate(record, 0)
        case "flip":
            overwrite(record, len(data) // 2, bytes([data[len(data) // 2] ^ 1]))
        case "longer":
            record.write_bytes(data + bytes(8))
        case "uneven":
            content = data[:-9]
            record.write_bytes(content + xxh3_64_digest(content))
        case "link":
            record.rename(tmp_path / "elsewhere")
            record.symlink_to(tmp_path / "elsewhere")
    assert not recorded(path).differs(2, bytes(SIZE))


def recorded(path: Path) -> PageSums:
    with PageFile(Directory(path.parent)) as file:
        meta = newest(read_metas(file))
        assert meta is not None
        return PageSums.read(file).of(meta.content)


def test_a_record_of_another_commit(path: Path) -> None:
    """Such as after a crash, or of a data file that came back out of a backup."""
    record = (path.parent / SUMS_FILE).read_bytes()
    index = Index(Directory(path.parent))
    with index.change():
        index.put(Table.CHUNKS, number_key(1), b"other")
    index.commit()
    index.close()
    assert walk_of(path).problems == []
    record_close(Directory(path.parent))
    assert (path.parent / SUMS_FILE).read_bytes() != record
    assert walk_of(path).problems == []


def test_no_room_for_the_record(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is none, and the store is closed all the same."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sums, "_all_sums", full)
    record_close(Directory(path.parent))


def test_an_empty_folder_has_no_record(tmp_path: Path) -> None:
    record_close(Directory(tmp_path))
    assert not (tmp_path / SUMS_FILE).exists()


def test_the_sums_of_pages_of_any_kind() -> None:
    """A page whose head makes no sense has a sum, too."""
    for flags, lower, upper in ((1, 16, 9), (2, 0, 4096), (2, 9000, 9000), (4, 1, 0), (0, 0, 0)):
        page = struct.pack("<QHHHH", 5, 0, flags, lower, upper) + bytes(SIZE - 16)
        assert sums.sum_of(page) == sums.sum_of(memoryview(page))
        assert sums.sum_of(page) != sums.sum_of(page[:-1] + b"\1")


def test_a_leaf_of_another_table(path: Path) -> None:
    """Few rows of it seem to be sound, since checksums differ by table: it is another page."""
    one, other = walk_of(path).leaves[Table.CHUNKS][3:5]
    page = bytearray(path.read_bytes()[one.number * SIZE :][:SIZE])
    for node in nodes_of(bytes(page), one.number, 2):
        at = page.index(node.key + node.value) + len(node.key)
        page[at] ^= 1
    overwrite(path, one.number * SIZE, bytes(page))
    (problem,) = walk_of(path).problems
    assert (problem.page, problem.problem) == (one.number, PROBLEM)
    assert other.number not in walk_of(path).stale


def test_the_record_is_one_of_the_last_commit(path: Path, versions: list[bytes]) -> None:
    """So a meta page whose write was lost is found, although the other records are lost, too."""
    assert [meta.transaction for meta in records_of(path)] == [LAST, LAST, LAST - 1]
    for number in range(2):
        overwrite(path, (number + 1) * SIZE - SECTOR, bytes(SECTOR))
    assert [meta.transaction for meta in records_of(path)] == [LAST]
    overwrite(path, (LAST & 1) * SIZE, versions[-3][(LAST & 1) * SIZE :][: SIZE - SECTOR])
    with pytest.raises(DamagedPages, match=f"the last was {LAST}"):
        Index(Directory(path.parent), read_only=True)


def test_a_record_without_its_roots_is_of_another_file(path: Path) -> None:
    """Such as a data file that came back out of a backup, below the record of a later commit."""
    (root,) = {meta.tables.root for meta in records_of(path) if meta.transaction == LAST}
    for number in range(2):
        overwrite(path, (number + 1) * SIZE - SECTOR, bytes(SECTOR))
    overwrite(path, root * SIZE + SIZE - 8, b"changed!")
    assert records_of(path) == []


def records_of(path: Path) -> list[Meta]:
    with PageFile(Directory(path.parent)) as file:
        read_metas(file)
        return read_records(file)


def test_a_writer_removes_the_record(path: Path) -> None:
    """A reader leaves it."""
    record = path.parent / SUMS_FILE
    Index(Directory(path.parent), read_only=True).close()
    assert record.exists()
    Index(Directory(path.parent)).close()
    assert not record.exists()


@pytest.mark.parametrize("kind", ["short", "rootless", "sparse", "folder"])
def test_a_crafted_record(path: Path, kind: str) -> None:
    """It ends no opening, takes no memory, and is never believed."""
    record = path.parent / SUMS_FILE
    (last,) = {meta.content for meta in records_of(path) if meta.transaction == LAST}
    record.unlink()
    match kind:
        case "short":
            record.write_bytes(MAGIC + b"meta" + xxh3_64_digest(MAGIC + b"meta"))
        case "rootless":
            newer = Meta.from_bytes(last).with_fields(transaction=1 << 40).with_tables(NO_PAGE)
            record.write_bytes(MAGIC + newer.content + xxh3_64_digest(MAGIC + newer.content))
        case "sparse":
            with record.open("wb") as file:
                file.truncate(1 << 40)
        case "folder":
            record.mkdir()
    assert max(meta.transaction for meta in records_of(path)) == LAST
    Index(Directory(path.parent)).close()


def test_a_stale_leaf_beside_later_overflow_pages(tmp_path: Path) -> None:
    """The value of its large row does not match its checksum: that damage is none of the leaf."""
    chance = random.Random(5)
    index, path, versions = Index(Directory(tmp_path)), tmp_path / "data.mdb", []
    for commit in range(40):
        with index.change():
            index.put(Table.XATTRS, b"a", b"value %d" % commit)
            index.put(Table.XATTRS, b"large", bytes([commit]) * (9000 + commit))
            for _ in range(chance.randrange(4)):
                key, size = b"%d" % chance.randrange(9), chance.randrange(10, 9000)
                index.put(Table.SYMLINKS, key, bytes([commit]) * size)
        index.commit()
        versions.append(path.read_bytes())
    index.close()
    record_close(Directory(tmp_path))
    (leaf,) = walk_of(path).leaves[Table.XATTRS]
    current = path.read_bytes()[leaf.number * SIZE :][:SIZE]
    tried = 0
    for older in versions[:-1]:
        page = older[leaf.number * SIZE :][:SIZE]
        if page[:12] == current[:12] and b"large" in page and page != current:
            overwrite(path, leaf.number * SIZE, page)
            assert leaf.number in {problem.page for problem in walk_of(path).problems}
            tried += 1
    assert tried


def test_the_record_outlives_a_replacement_that_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repair that is begun again finds the stale page again."""
    folder = Directory(path.parent)
    write_new(folder, {Table.META: [(b"a", b"value")]})

    def fail(*_: object) -> None:
        raise OSError(5, "failed")

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "rename", fail)
        with pytest.raises(OSError, match="failed"):
            replace_data_file(folder)
    assert (path.parent / SUMS_FILE).exists()
    replace_data_file(folder)
    assert not (path.parent / SUMS_FILE).exists()
