"""The parts of a disk that are left free."""

import pytest

from modelfs.store.disk.reserve import COPY_TABLES, INGEST_MARGIN, Reserve, as_chunks

MB = 1 << 20


@pytest.mark.parametrize(
    ("total", "reserve"),
    [(40 * MB, 10 * MB), (200 * MB, 24 * MB), (1000 * MB, 50 * MB), (10**13, 256 * MB)],
)
def test_the_reserve_fits_the_disk(total: int, reserve: int) -> None:
    """The reserve is 5 % of the disk, more of small disks, less of large ones."""
    assert Reserve.of(total).size == reserve


def test_the_parts_of_the_reserve() -> None:
    """The floor is an eighth of the reserve, but larger below a limit; the slack is 4 MiB."""
    assert Reserve.of(100 << 30) == Reserve(256 * MB, 32 * MB, 4 * MB)
    assert Reserve.of(200 * MB) == Reserve(24 * MB, 3 * MB, 4 * MB)
    assert Reserve.of(200 * MB, limited=True) == Reserve(24 * MB, 6 * MB, 4 * MB)
    assert Reserve.of(8 * MB, limited=True) == Reserve(2 * MB, MB, MB // 2)


def test_writers_leave_room_for_copies() -> None:
    """All that is staged fits the disk once more; with more free the reserve is the bound."""
    reserve, free, staged = Reserve.of(100 << 30), 300 * MB, 200 * MB
    more = reserve.for_writers(free, staged)
    left = free - reserve.floor - reserve.slack
    assert more + as_chunks(staged + more) <= left
    assert more + 1 + as_chunks(staged + more + 1) >= left
    assert reserve.for_writers(300 * MB, 0) == 44 * MB


def test_staged_bytes_as_chunks() -> None:
    """Chunks take their bytes, tables of a 32nd part, and a margin; no bytes take nothing."""
    assert as_chunks(0) == 0
    assert as_chunks(32 * MB) == 32 * MB + 32 * MB // COPY_TABLES + INGEST_MARGIN
