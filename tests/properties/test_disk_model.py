"""The disk model loses everything that POSIX permits, and nothing else."""

from random import Random

from tests.support.crash.disk_model import (
    SECTOR,
    Chance,
    Create,
    Disk,
    Operation,
    Remove,
    Resize,
    Sync,
    Write,
    everything,
    nothing_more,
)

TOP, FILE, OTHER = 1, 2, 3
EMPTY: list[Operation] = [Create("", TOP, is_folder=True)]
FILLED: list[Operation] = [*EMPTY, Create("f", FILE), Write(FILE, 0, b"old" * SECTOR)]


def after(before: list[Operation], *operations: Operation) -> Disk:
    """Return a disk on which `before` is durable, with `operations` done."""
    disk = Disk(before)
    for operation in operations:
        disk.apply(operation)
    return disk


def contents(disk: Disk, path: str = "f") -> set[bytes | None]:
    """Return the contents of a file that a crash may leave, by some draws."""
    trees = [disk.tree(Chance(Random(seed))) for seed in range(200)]
    return {tree.get(path) for tree in [*trees, disk.tree(nothing_more), disk.tree(everything)]}


def test_initial_contents_are_durable() -> None:
    """A crash loses nothing of a disk's initial contents."""
    assert contents(after(FILLED)) == {b"old" * SECTOR}


def test_a_write_is_lost_until_the_file_is_synced() -> None:
    """A write within a sector may be lost until an fsync of the file returns."""
    write = Write(FILE, 10, b"new")
    new = b"old" * SECTOR
    new = new[:10] + b"new" + new[13:]
    assert contents(after(FILLED, write)) == {b"old" * SECTOR, new}
    assert contents(after(FILLED, write, Sync(TOP))) == {b"old" * SECTOR, new}
    assert contents(after(FILLED, write, Sync(FILE))) == {new}


def test_a_write_tears_at_sectors_only() -> None:
    """Each sector of a long write may be lost on its own."""
    disk = after(FILLED, Write(FILE, 0, b"new" * SECTOR))
    old, new = b"old" * SECTOR, b"new" * SECTOR
    sectors = [{old[at : at + SECTOR], new[at : at + SECTOR]} for at in range(0, 1536, SECTOR)]
    found = [each for each in contents(disk) if each is not None]
    assert len(found) == 2**3
    for each in found:
        parts = (each[at : at + SECTOR] for at in range(0, 1536, SECTOR))
        assert all(part in were for part, were in zip(parts, sectors, strict=True))


def test_a_growing_file_has_any_size_between() -> None:
    """A write behind the end of a file may be cut anywhere, or be zeros."""
    disk = after(FILLED, Write(FILE, 1536, b"n" * 1000))
    found = [each for each in contents(disk) if each is not None]
    assert all(each.startswith(b"old" * SECTOR) for each in found)
    assert len({len(each) for each in found}) > 10
    assert any(each.endswith(bytes(100)) for each in found)
    assert any(each.endswith(b"n" * 1000) for each in found)


def test_a_cut_file_may_be_whole_again() -> None:
    """A truncation may be lost like a write."""
    assert {len(each or b"") for each in contents(after(FILLED, Resize(FILE, 3)))} >= {3, 1536}
    assert contents(after(FILLED, Resize(FILE, 3), Sync(FILE))) == {b"old"}
    again = after(FILLED, Resize(FILE, 3), Resize(FILE, 6), Sync(FILE))
    assert contents(again) == {b"old\0\0\0"}


def test_a_name_is_lost_until_its_folder_is_synced() -> None:
    """An fsync of a file makes its bytes durable, and not its name."""
    made = (Create("f", FILE), Write(FILE, 0, b"new"), Sync(FILE))
    assert contents(after(EMPTY, *made)) == {None, b"new"}
    assert contents(after(EMPTY, *made, Sync(TOP))) == {b"new"}


def test_a_removed_file_may_come_back() -> None:
    """A removed name may exist or not, and may refer to its old file."""
    assert contents(after(FILLED, Remove("f"))) == {None, b"old" * SECTOR}
    assert contents(after(FILLED, Remove("f"), Sync(TOP))) == {None}
    anew = (Remove("f"), Create("f", OTHER), Write(OTHER, 0, b"new"), Sync(OTHER))
    assert contents(after(FILLED, *anew)) == {None, b"old" * SECTOR, b"new"}
    assert contents(after(FILLED, *anew, Sync(TOP))) == {b"new"}


def test_files_go_with_their_folder() -> None:
    """The contents of a folder whose name is lost are unreachable."""
    made = (Create("d", FILE, is_folder=True), Create("d/f", OTHER), Sync(FILE))
    assert contents(after(EMPTY, *made), "d/f") == {None, b""}
    assert contents(after(EMPTY, *made, Sync(TOP)), "d/f") == {b""}
