"""Data and holes of files on a mount, beside those of the disk."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.support.file_data import data_of
from tests.support.mounts import Mount, run, with_session_io
from tests.support.stores import noise

pytestmark = [pytest.mark.mount, with_session_io]

BLOCK = 64 << 10  # more than a block of any disk
MAPS = """
import mmap, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
    pages[300000:300005] = b"bytes"
    print("written", flush=True)
    sys.stdin.read()
"""


def write_blocks(path: Path, random: Random, count: int) -> None:
    with path.open("wb") as file:
        for block in random.sample(range(64), count):
            file.seek(block * BLOCK)
            file.write(noise(BLOCK, block))
        file.truncate(random.randrange(64, 80) * BLOCK)


@pytest.mark.parametrize("seed", range(2))
def test_data_of_sparse_files(mount: Mount, tmp_path: Path, seed: int) -> None:
    """Staged, in chunks, and after a remount, a file has the data and holes of one on the disk."""
    mounted, plain = mount.path / "f", tmp_path / "f"
    for path in (mounted, plain):
        write_blocks(path, Random(seed), 3 + 20 * seed)
    expected = data_of(plain)
    assert data_of(mounted) == expected
    mount.sync()
    assert data_of(mounted) == expected
    mount.remount()
    assert data_of(mounted) == expected


def test_copies_keep_holes(mount: Mount, tmp_path: Path) -> None:
    """`cp` and `tar` read no holes, and their copies are as sparse as the file."""
    path, copy = mount.path / "f", tmp_path / "copy"
    path.touch()
    os.truncate(path, 1 << 40)
    with path.open("r+b") as file:
        for at in (5 * BLOCK, 1 << 38, (1 << 40) - BLOCK):
            file.seek(at)
            file.write(noise(BLOCK, at))
    mount.sync()
    run("cp", path, copy)
    assert data_of(copy) == data_of(path)
    os.truncate(path, 1 << 30)
    run("tar", "-C", mount.path, "-S", "-cf", tmp_path / "f.tar", "f")
    assert (tmp_path / "f.tar").stat().st_size < 4 * BLOCK
    (tmp_path / "out").mkdir()
    run("tar", "-C", tmp_path / "out", "-xf", tmp_path / "f.tar")
    assert data_of(tmp_path / "out" / "f") == [(5 * BLOCK, 6 * BLOCK)]
    with (tmp_path / "out" / "f").open("rb") as file:
        file.seek(5 * BLOCK)
        assert file.read(BLOCK) == noise(BLOCK, 5 * BLOCK)


def test_a_mapping_over_a_hole(mount: Mount, tmp_path: Path) -> None:
    """A copy of a file whose hole a program writes through a mapping has these bytes."""
    path, copy = mount.path / "f", tmp_path / "copy"
    path.touch()
    os.truncate(path, 1 << 20)
    assert data_of(path) == []
    # A program of its own: when a descriptor of the file is closed, the kernel sends its pages.
    command = [sys.executable, "-c", MAPS, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"written\n"
        run("cp", path, copy)
    assert copy.read_bytes() == path.read_bytes() == bytes(300_000) + b"bytes" + bytes(748_571)
