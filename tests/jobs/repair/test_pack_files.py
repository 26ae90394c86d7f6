"""Pack files that may be damaged: their tables, and their right names."""

import os
from pathlib import Path

import pytest

from modelfs.codecs.base import CodecId
from modelfs.jobs.repair.pack_files import PackState, read_segment_tables, rename_packs
from modelfs.jobs.repair.quarantine import FOLDER, Quarantine
from modelfs.store.disk.directory import Directory
from modelfs.store.disk.space import Space
from modelfs.store.index.chunk_records import ChunkKind
from modelfs.store.index.tables import ROOT, ChunkId, PackId
from modelfs.store.packs.header import pack_name
from modelfs.store.packs.pack import Packs
from modelfs.store.packs.segment import PAGE, Segment
from modelfs.store.store import Store
from tests.support.stores import CHUNK, Box, content_of, noise, stored_file

ONE = PackId(1)


@pytest.fixture
def packs(tmp_path: Path) -> Packs:
    """A pack of three segments of one chunk: 7, 8, and 7 once more."""
    packs = Packs(Directory(tmp_path), bytes(16), Space(tmp_path))
    packs.open_at(None, ONE)
    for number in (7, 8, 7):
        segment = Segment()
        segment.add(ChunkId(number), ChunkKind.PLAIN, CodecId.RAW, 100, noise(100, number))
        packs.append(segment)
    return packs


def path_of(packs: Packs) -> Path:
    return packs.directory.path / pack_name(ONE)


def overwritten(packs: Packs, offset: int) -> PackState:
    """Damage a byte, and read the tables."""
    with path_of(packs).open("r+b") as file:
        file.seek(offset)
        file.write(b"!")
    return read_segment_tables(packs, ONE)


def test_a_whole_pack(packs: Packs) -> None:
    """All segments follow each other, and the newest entry of a chunk comes first."""
    state = read_segment_tables(packs, ONE)
    assert state.ends == [PAGE, 2 * PAGE, 3 * PAGE, 4 * PAGE]
    assert state.strays == []
    assert [entry.offset // PAGE for entry in state.entries_of(ChunkId(7))] == [3, 1]
    assert state.has(ChunkId(8))
    assert not state.has(ChunkId(9))
    assert [state.is_damaged(stop) for stop in (PAGE, 3 * PAGE, 4 * PAGE)] == [False] * 3


def test_a_damaged_table_makes_those_behind_it_strays(packs: Packs) -> None:
    """Segments behind damage are found, and come after those before it."""
    state = overwritten(packs, 2 * PAGE + 30)
    assert state.ends == [PAGE, 2 * PAGE]
    assert [entry.chunk for entry in state.strays] == [7]
    assert [entry.offset // PAGE for entry in state.entries_of(ChunkId(7))] == [1, 3]
    assert not state.has(ChunkId(8))
    assert state.is_damaged(4 * PAGE)
    assert not state.is_damaged(2 * PAGE)  # only uncommitted segments are damaged


def test_a_damaged_header_hides_no_segment(packs: Packs) -> None:
    """Without its header a pack is damaged, and its tables are read all the same."""
    state = overwritten(packs, 3)
    assert not state.has_header
    assert len(state.ends) == 4
    assert state.is_damaged(4 * PAGE)


def test_a_pack_cut_short(packs: Packs) -> None:
    """A segment that the file does not have whole is a stray; its table may still be there."""
    os.truncate(path_of(packs), 3 * PAGE + 70)
    state = read_segment_tables(packs, ONE)
    assert state.ends[-1] == 3 * PAGE
    assert [entry.offset // PAGE for entry in state.strays] == [3]
    assert state.is_damaged(4 * PAGE)
    os.truncate(path_of(packs), 100)
    assert read_segment_tables(packs, ONE).is_damaged(PAGE)


def test_a_pack_that_is_not_there(packs: Packs) -> None:
    """A missing file has no length, and counts as damaged."""
    state = read_segment_tables(packs, PackId(2))
    assert (state.length, state.has_header, state.entries) == (-1, False, {})
    assert state.is_damaged(PAGE)


# -- names


def renamed(box: Box) -> list[str]:
    quarantine = Quarantine(Directory(box.path))
    with Store(box.path, recover=False) as store:
        done = list(rename_packs(store, quarantine))
        quarantine.move_files()
    return done


@pytest.fixture
def two_packs(box: Box) -> list[Path]:
    """The files of two packs, with one file of the store in each; the store is closed."""
    stored_file(box.store, b"a", noise(CHUNK, 1))
    box.store.packs.seal(ONE)
    stored_file(box.store, b"b", noise(CHUNK, 2))
    box.store.close()
    return sorted((box.path / "packs").iterdir())


def check_files(box: Box) -> None:
    box.store = Store(box.path)
    for name, seed in ((b"a", 1), (b"b", 2)):
        assert content_of(box.store, box.store.namespace.lookup(ROOT, name)) == noise(CHUNK, seed)


def test_swapped_packs_change_places(box: Box, two_packs: list[Path]) -> None:
    """Two packs under each other's name get their own, and nothing is set aside."""
    one, two = two_packs
    one.rename(one.with_name("tmp"))
    two.rename(one)
    one.with_name("tmp").rename(two)
    assert len(renamed(box)) == 2
    assert not (box.path / FOLDER).exists()
    check_files(box)


def test_a_right_pack_is_not_displaced(box: Box, two_packs: list[Path]) -> None:
    """A copy of a pack under another name stays, because the right one is there."""
    copy = two_packs[0].with_name(pack_name(9))
    copy.write_bytes(two_packs[0].read_bytes())
    assert renamed(box) == []
    copy.unlink()
    check_files(box)


def test_a_file_without_a_header_gives_its_name_to_the_right_one(
    box: Box, two_packs: list[Path]
) -> None:
    """A pack found under another name takes the place of a damaged file, which is kept."""
    one = two_packs[0]
    one.rename(one.with_name("found"))
    one.write_bytes(b"junk")
    assert len(renamed(box)) == 1
    (kept,) = (box.path / FOLDER).iterdir()
    assert kept.read_bytes() == b"junk"
    check_files(box)


def test_a_pack_of_another_store_is_set_aside(box: Box, two_packs: list[Path]) -> None:
    """Another store's pack goes to quarantine under any name."""
    other = Packs(Directory(box.path), bytes(16), Space(box.path))
    other.open_at(None, ONE)
    segment = Segment()
    segment.add(ChunkId(1), ChunkKind.PLAIN, CodecId.RAW, 1, b"x")
    other.append(segment)
    (box.path / pack_name(1)).rename(box.path / "packs" / pack_name(5))
    (done,) = renamed(box)
    assert "another store" in done
    assert [path.name for path in (box.path / FOLDER).iterdir()] == [pack_name(5)]
    check_files(box)
