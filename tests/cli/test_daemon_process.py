"""The process of a mount's daemon."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelfs.cli.daemon_process import DaemonProcess
from modelfs.proc import PROC
from modelfs.store.folder import identity_of
from modelfs.store.mounted import MountedStore
from tests.support.mounts import DEADLINE


def test_found_by_the_folder_that_it_has_open(empty: Path) -> None:
    """The process is found by its own description, as long as it has the store's folder open."""
    fd = os.open(empty, os.O_PATH)
    holder = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[fd]
    )
    os.close(fd)
    link = PROC / f"{holder.pid}/fd/{fd}"
    described = MountedStore(empty, identity_of(empty), link, holder.pid)
    with DaemonProcess(None, described) as process:
        assert process.is_found
        assert not process.has_ended()
        holder.communicate(timeout=DEADLINE)
        assert process.has_ended()
    with DaemonProcess(None, described) as process:
        assert not process.is_found


@pytest.mark.parametrize("pid", [None, os.getpid()], ids=["unknown", "known"])
def test_another_process_of_that_number(empty: Path, pid: int | None) -> None:
    """A process that has not opened the store's folder is not taken for the daemon."""
    described = MountedStore(empty, identity_of(empty), PROC / f"{os.getpid()}/fd/0", pid)
    with DaemonProcess(None, described) as process:
        assert not process.is_found
        assert not process.has_ended()
