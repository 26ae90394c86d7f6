"""The data of sparse files."""

import os
from pathlib import Path

from modelfs.store.disk.sparse import data_ranges

BLOCK = 4096


def test_the_data_of_a_sparse_file(tmp_path: Path) -> None:
    """Written blocks are found, from any offset on, and holes are left out."""
    with (tmp_path / "f").open("w+b") as file:
        fd = file.fileno()
        assert list(data_ranges(fd)) == []
        for number in (0, 5, 6, 100):
            os.pwrite(fd, b"x", number * BLOCK)
        os.ftruncate(fd, 200 * BLOCK)
        blocks = {at // BLOCK for low, high in data_ranges(fd) for at in range(low, high, BLOCK)}
        assert blocks >= {0, 5, 6, 100}
        assert 50 not in blocks
        assert 150 not in blocks
        (low, high), *more = data_ranges(fd, 50 * BLOCK)
        assert (low <= 100 * BLOCK < high, more) == (True, [])
