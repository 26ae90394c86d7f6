"""Holes of files, compared with the overlay of their maps."""

from pathlib import Path
from random import Random
from typing import Final

import pytest

from modelfs.errors import CorruptIndex
from modelfs.store.files import holes
from modelfs.store.index.tables import InodeNumber, Table, pair_key
from modelfs.store.store import Store
from tests.support.damaged_rows import raw_rows
from tests.support.file_maps import cut_into_bytes, data_of
from tests.support.run_jobs import ingest_file
from tests.support.stores import CHUNK, new_file, new_store, noise, stored_file

EDGES: Final = [CHUNK * number + more for number in range(1, 12) for more in (-1, 0, 700)]


def next_hole(store: Store, inode: InodeNumber, offset: int) -> tuple[int, int]:
    """Return the next hole, and the number of steps that found it."""
    search = store.holes.next_hole(inode, offset)
    steps = 1
    while True:
        try:
            next(search)
        except StopIteration as end:
            return int(end.value), steps
        steps += 1


def found_data(store: Store, inode: InodeNumber) -> list[tuple[int, int]]:
    """Return the ranges of data of a file, by searches for data and holes in turn."""
    found: list[tuple[int, int]] = []
    at = 0
    while (start := store.holes.next_data(inode, at)) is not None:
        at, _ = next_hole(store, inode, start)
        found.append((start, at))
    return found


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("seed", range(4))
def test_data_and_holes(opened: Store, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches find the ranges that are staged, or mapped and not hidden, and no others."""
    monkeypatch.setattr(holes, "STEP_FIRST", 1)
    monkeypatch.setattr(holes, "STEP_MAX", 3)
    random = Random(seed)
    inode = new_file(opened, b"f")
    for _ in range(60):
        offset = random.choice(EDGES)
        match random.randrange(6):
            case 0 | 1 | 2:
                opened.writes.write(inode, offset, noise(random.choice((1, 700, 2 * CHUNK))))
            case 3:
                opened.writes.truncate(inode, offset)
            case 4:
                ingest_file(opened, inode)
            case 5:
                opened.commit()
        data = data_of(opened, inode)
        assert found_data(opened, inode) == list(data)
        size = opened.contents.node(inode).size
        for at in (each for each in EDGES if each < size):
            hole, _ = next_hole(opened, inode, at)
            assert hole == next((high for low, high in data if low <= at < high), at)
            after = next(data.within(at, size), None)
            assert opened.holes.next_data(inode, at) == (None if after is None else after[0])


def test_many_extents_take_many_steps(opened: Store) -> None:
    """A step reads no more extents than `STEP_MAX`, and a search for data reads one."""
    inode = stored_file(opened, b"f", noise(3000))
    cut_into_bytes(opened, inode, 0, 3000)
    opened.writes.truncate(inode, 4000)
    asked: list[int] = []
    following = opened.maps.following

    def asking(inode: InodeNumber, start: int, limit: int) -> list[object]:
        asked.append(limit)
        return [*following(inode, start, limit)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opened.maps, "following", asking)
        hole, steps = next_hole(opened, inode, 0)
        assert opened.holes.next_data(inode, 5) == 5
    assert hole == 3000
    assert steps == len(asked) - 1 >= 3000 // holes.STEP_MAX
    assert max(asked) <= holes.STEP_MAX
    assert asked[-1] == 1


def test_a_file_without_holes(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a file whose extents are as long as itself is found without a look at them."""
    inode = stored_file(opened, b"f", noise(5 * CHUNK))
    monkeypatch.setattr(opened.maps, "following", None)
    assert next_hole(opened, inode, 17) == (5 * CHUNK, 1)


def test_missing_extents(tmp_path: Path) -> None:
    """The place of a missing extent looks like a hole until the check."""
    path = new_store(tmp_path)
    with Store(path) as store:
        inode = stored_file(store, b"f", noise(3 * CHUNK))
    with raw_rows(path / "index") as rows:
        del rows[Table.EXTENTS][pair_key(inode, CHUNK)]
    with Store(path, read_only=True) as store:
        assert store.holes.next_data(inode, CHUNK) == 2 * CHUNK
        assert not store.holes.are_known(inode)
        with pytest.raises(CorruptIndex, match="are missing"):
            store.holes.check(inode)
