"""Pages of mapped files: they reach the store at a sync and at the end, and hold up no end."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support import users
from tests.support.mounts import DEADLINE, MODELFS, Mount, wait_until
from tests.support.paths import CHECKOUT
from tests.support.stores import noise
from tests.support.users import BOB, user

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv"
)
UNIT: Final = CHECKOUT / "systemd/modelfs@.service"
DATA: Final = noise(1 << 20)


def limited_to(capabilities: list[str]) -> list[str]:
    """Return a command that runs another one with these capabilities."""
    names = [f"+{name.removeprefix('CAP_').lower()}" for name in capabilities]
    return ["setpriv", f"--bounding-set=-all,{','.join(names)}", "--inh-caps=-all"]


def capabilities_of_the_unit() -> list[str]:
    (line,) = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
    return str(line).split()


@pytest.fixture
def home(fuse: None, store: Path, tmp_path: Path) -> Iterator[Mount]:
    """A mount of a daemon with the unit's capabilities, with a folder that only Bob may enter."""
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if folder.stat().st_mode & 0o005 != 0o005 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    prefix = limited_to(capabilities_of_the_unit())
    mount = Mount(store, tmp_path / "mnt", "--allow-other", prefix=prefix)
    mount.start()
    try:
        (mount.path / "home").mkdir(mode=0o700)
        os.chown(mount.path / "home", BOB.uid, BOB.gid)
        yield mount
    finally:
        mount.close()


@pytest.mark.parametrize("end", ["sync", "stop"])
def test_mapped_pages_of_others(home: Mount, end: str) -> None:
    """Bytes that another user wrote through a mapping survive a kill after a sync, and a stop."""
    with user(BOB, home.path) as bob:
        assert bob(users.fill_mapping, "home/private", DATA) is None
        if end == "sync":
            home.sync()
            home.kill()
        else:
            home.terminate()
    home.start()
    with user(BOB, home.path) as bob:
        assert bob(users.read, "home/private") == DATA


def test_pages_that_cannot_be_reached(home: Mount) -> None:
    """Without the capability the sync fails and names the file, and so does the end."""
    home.terminate()
    limited = Mount(home.store, home.path, "--allow-other", prefix=limited_to(["CAP_SYS_ADMIN"]))
    limited.start()
    with user(BOB, home.path) as bob:
        assert bob(users.fill_mapping, "home/private", DATA) is None
        done = subprocess.run(
            [*MODELFS, "sync", home.path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "/home/private" in done.stderr
        with pytest.raises(AssertionError, match="ended with 1"):
            limited.terminate()
    home.start()


# Two processes: one fills a mapping of a file again and again, one opens the file with O_TRUNC.
MAPPER: Final = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
while True:
    os.ftruncate(fd, 64 << 20)
    mapping = mmap.mmap(fd, 64 << 20)
    for at in range(0, 64 << 20, 4096):
        mapping[at] = 1
"""
OPENER: Final = """
import os, sys
while True:
    os.close(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
"""


@contextlib.contextmanager
def clients(path: Path) -> Iterator[None]:
    """Run both programs until the end of the block; one that dies of SIGBUS is started again."""
    loop = 'while :; do "$0" -c "$1" "$2"; done'
    processes = [
        subprocess.Popen(
            ["sh", "-c", loop, sys.executable, program, path],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for program in (MAPPER, OPENER)
    ]
    try:
        yield
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_end_during_truncating_opens(
    fuse: None, store: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """A daemon ends within seconds though opens with O_TRUNC wait for pages of a mapping."""
    mount = Mount(store, tmp_path / "mnt")
    mount.start()
    with clients(mount.path / "f"):
        wait_until((mount.path / "f").exists)
        time.sleep(1)  # until both are at it
        assert mount._daemon is not None
        mount._daemon.send_signal(number)
        code = mount._daemon.wait(DEADLINE)
    assert code == (-number if number is signal.SIGKILL else 0), mount.log()
    mount.clear()
    mount.start()
    mount.close()
