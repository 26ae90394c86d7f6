"""The bytes that a store may use, also when it uses more."""

import os
from pathlib import Path

import pytest

from modelfs.store.disk.limit import Limit
from modelfs.store.disk.reserve import Reserve, as_chunks
from modelfs.store.disk.usage import Usage

MB = 1 << 20
SIZE = 100 * MB
RESERVE = Reserve.of(SIZE, limited=True)


def limit_of(folder: Path, staged: int = 0) -> Limit:
    return Limit(SIZE, Usage(folder), RESERVE, lambda: staged)


def test_promised_bytes_count(tmp_path: Path) -> None:
    """The bytes that are left become fewer with each promise, and are counted on demand."""
    usage = Usage(tmp_path)
    limit = Limit(SIZE, usage, RESERVE, lambda: 0)
    before = limit.free
    assert SIZE - MB < before <= SIZE
    usage.promise(5 * MB)
    assert limit.free == before - 5 * MB
    usage.arrive(5 * MB, 0)
    limit.count()
    assert limit.free == before


def test_a_store_above_its_limit_can_shrink(tmp_path: Path) -> None:
    """A store larger than its limit has the room of a reserve, until it fits the limit."""
    file = tmp_path / "f"
    with file.open("wb") as opened:
        os.posix_fallocate(opened.fileno(), 0, 120 * MB)
    limit = limit_of(tmp_path)
    assert limit.free == RESERVE.size
    os.truncate(file, 110 * MB)
    limit.count()
    assert limit.free == RESERVE.size + 10 * MB
    os.truncate(file, 90 * MB)
    limit.count()
    assert 9 * MB < limit.free <= 10 * MB


@pytest.mark.parametrize("staged", [MB, 40 * MB])
def test_staged_bytes_can_become_chunks(tmp_path: Path, staged: int) -> None:
    """The staged bytes of a store that is opened have room as chunks, above the floor."""
    with (tmp_path / "f").open("wb") as opened:
        os.posix_fallocate(opened.fileno(), 0, 80 * MB)
    limit = limit_of(tmp_path, staged)
    assert limit.free >= as_chunks(staged) + RESERVE.floor
    assert (limit.free > 20 * MB) == (staged > MB)
