"""fallocate(2) on a mount: allocations, and holes."""

import errno
import os
from pathlib import Path

import pytest

from modelfs.fs.requests.allocator import ZERO_RANGE
from modelfs.store.disk.allocation import KEEP_SIZE, PUNCH_HOLE
from tests.support.mounts import Mount, modelfs, mounted, run, run_python, with_session_io
from tests.support.stores import noise
from tests.support.syscalls import fallocate

pytestmark = [pytest.mark.mount, with_session_io]

MB = 1 << 20
DATA = noise(5 * MB + 3)


@pytest.fixture(params=["staged", "stored"])
def file(request: pytest.FixtureRequest, here: Path, shared_mount: Mount) -> Path:
    """A file whose bytes are staged, or in chunks."""
    path = here / "f"
    path.write_bytes(DATA)
    if request.param == "stored":
        shared_mount.sync()
    return path


def test_the_command(file: Path, shared_mount: Mount) -> None:
    """fallocate(1) extends, punches and zeroes; the pages of the kernel follow."""
    assert file.read_bytes() == DATA
    run("fallocate", "-l", str(6 * MB), file)
    run("fallocate", "-p", "-o", "5", "-l", str(MB), file)
    run("fallocate", "-z", "-o", str(2 * MB), "-l", "100", file)
    run("fallocate", "-n", "-l", str(9 * MB), file)
    expected = DATA[:5] + bytes(MB) + DATA[MB + 5 : 2 * MB] + bytes(100) + DATA[2 * MB + 100 :]
    assert file.read_bytes() == expected.ljust(6 * MB, b"\0")
    shared_mount.cool()
    assert file.read_bytes() == expected.ljust(6 * MB, b"\0")
    # The data, less the hole, in blocks of the disk.
    assert file.stat().st_blocks * 512 <= len(DATA) - MB + 8192


def test_emulations_are_not_needed(here: Path) -> None:
    """posix_fallocate(3) writes nothing: for 16 GiB it makes one system call."""
    with (here / "f").open("w+b") as file:
        file.write(b"kept")
        file.flush()
        os.posix_fallocate(file.fileno(), 0, 1 << 34)
        assert os.fstat(file.fileno()).st_size == 1 << 34
        assert os.pread(file.fileno(), 100, 0) == b"kept" + bytes(96)
        os.ftruncate(file.fileno(), 0)


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        (8, errno.EOPNOTSUPP),  # FALLOC_FL_COLLAPSE_RANGE
        (32, errno.EOPNOTSUPP),  # FALLOC_FL_INSERT_RANGE
        (PUNCH_HOLE, errno.EOPNOTSUPP),
    ],
)
def test_modes_that_are_not_supported(file: Path, mode: int, error: int) -> None:
    """A range is neither collapsed nor inserted, and the next call works all the same."""
    with file.open("r+b") as opened:
        with pytest.raises(OSError, match=rf"\[Errno {error}\]"):
            fallocate(opened.fileno(), mode, 0, 4096)
        fallocate(opened.fileno(), PUNCH_HOLE | KEEP_SIZE, 0, 4096)
    assert file.read_bytes() == bytes(4096) + DATA[4096:]


def test_a_mapping(file: Path) -> None:
    """A mapping shows a hole, and bytes that it had not sent before are in the hole, too."""
    with file.open("r+b") as opened:
        run_python(
            """
            import mmap, os, subprocess, sys
            with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
                pages[10:20] = b"x" * 10
                pages[100_000:100_010] = b"y" * 10
                subprocess.run(["fallocate", "-p", "-l", "50000", sys.argv[1]], check=True)
                assert pages[:50_000] == bytes(50_000)
                assert pages[100_000:100_010] == b"y" * 10
            """,
            file,
        )
        fallocate(opened.fileno(), ZERO_RANGE, 100_005, 5)
    assert file.read_bytes() == (
        bytes(50_000) + DATA[50_000:100_000] + b"yyyyy" + bytes(5) + DATA[100_010:]
    )


def test_no_room(fuse: None, store: Path, tmp_path: Path) -> None:
    """An allocation of more than the room is ENOSPC, and changes nothing; a hole works."""
    with mounted(store, tmp_path / "mnt", "--limit", "64M") as mount:
        path = mount.path / "f"
        path.write_bytes(DATA)
        with path.open("r+b") as file:
            with pytest.raises(OSError, match=rf"\[Errno {errno.ENOSPC}\]"):
                os.posix_fallocate(file.fileno(), 0, 80 * MB)
            os.posix_fallocate(file.fileno(), 0, len(DATA) + 100)
            fallocate(file.fileno(), PUNCH_HOLE | KEEP_SIZE, 0, len(DATA))
        assert path.read_bytes() == bytes(len(DATA) + 100)
        mount.sync()
        modelfs("gc", mount.path)
