"""The handler of SIGBUS, in processes of their own: it closes one file, and no other."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.mounts import run

# A file of 2 MiB without blocks is mapped, and another without a name takes all room.
PROGRAM = """
    import faulthandler, mmap, os, signal, sys
    from modelfs.store.disk.allocation import NamelessFile
    from modelfs.store.disk.bus_errors import arm, disarm, is_armed

    faulthandler.enable()
    sparse = open(os.path.join(sys.argv[1], "sparse"), "w+b")
    sparse.truncate(2 << 20)
    mapping = mmap.mmap(sparse.fileno(), 2 << 20)

    def armed():
        file = NamelessFile(sys.argv[1], os.statvfs(sys.argv[1]).f_bavail * 4096)
        ticket = arm(file.fd)
        file.close()
        return ticket

    def room():
        return os.statvfs(sys.argv[1]).f_bavail * 4096
"""

pytestmark = [
    pytest.mark.skipif(
        find_spec("modelfs.store.disk._bus_errors") is None, reason="it is not compiled"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small tmpfs"),
]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, on which a mapped page without room raises SIGBUS."""
    run("mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", tmp_path)
    try:
        yield tmp_path
    finally:
        run("umount", "--lazy", tmp_path)


def ended(folder: Path, source: str) -> tuple[int, str, str]:
    """Run a program, and return its exit status, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM) + textwrap.dedent(source), folder],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_write_is_repeated(small: Path) -> None:
    """A write to a page without room closes the file, and then has room."""
    source = """
        ticket = armed()
        assert is_armed(ticket) and not room()
        mapping[:4096] = b"x" * 4096
        print(mapping[:4096] == b"x" * 4096, is_armed(ticket), disarm(ticket), room() > 1 << 19)
    """
    assert ended(small, source) == (0, "True False False True\n", "")


def test_it_can_be_armed_again(small: Path) -> None:
    """One file is armed at a time; another one may follow, and no other file is closed."""
    source = """
        first = armed()
        mapping[0] = 1
        others = [os.open("/dev/null", os.O_RDONLY) for _ in range(50)]
        second = armed()
        print(second > first, arm(0), is_armed(first), is_armed(second))
        mapping[1 << 20] = 1
        print(is_armed(second), [os.fstat(fd).st_mode for fd in others] == 50 * [0o20666])
        third = armed()
        print(disarm(third), disarm(third), room() > 1 << 19)
    """
    printed = "True 0 False True\nFalse True\nTrue False True\n"
    assert ended(small, source) == (0, printed, "")


def test_the_room_may_come_later(small: Path) -> None:
    """A page without room waits, while another process makes some."""
    source = """
        import subprocess
        filler = os.path.join(sys.argv[1], "filler")
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, room() - 8192)
        armed()
        subprocess.Popen(["sh", "-c", 'sleep 0.7; rm "$0"', filler])
        for page in range(0, 64 << 10, 4096):
            mapping[page] = 1
        print(os.path.exists(filler))
    """
    assert ended(small, source) == (0, "False\n", "")


def test_a_page_that_stays_bad_ends_the_process(small: Path) -> None:
    """If the room is not enough, the process dies of SIGBUS, by way of the handler before."""
    source = """
        armed()
        for page in range(0, 2 << 20, 4096):
            mapping[page] = 1
    """
    status, _, stderr = ended(small, source)
    assert status == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in stderr


def test_a_signal_of_a_process_is_none_of_a_page(small: Path) -> None:
    """SIGBUS that kill(2) sends ends the process as before, although a file is armed."""
    status, _, stderr = ended(small, "armed()\nos.kill(os.getpid(), signal.SIGBUS)")
    assert status == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in stderr
