"""The crash tools work, and they find the losses of a store that does not sync.

The long runs, whose figures the README has, are for `tools/run trust.power_loss` and
`tools/run trust.kill_daemon`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

POWER_LOSS = ("tools.trust.power_loss", "--fs", "ext4", "--workload", "fsync", "--seconds", "1")

pytestmark = pytest.mark.mount

needs_disks = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists() or not shutil.which("mkfs.ext4"),
    reason="needs root and loop devices",
)


def call(*command: str | Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run a tool; it and its daemons import modules from the folder `path` first."""
    environment = {**os.environ, "PYTHONPATH": f"{path}:{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@needs_disks
def test_power_loss(fuse: None) -> None:
    """A loss of power loses nothing that an fsync acknowledged."""
    done = call(*POWER_LOSS, "--points", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ext4 fsync: 3 held, 0 lost" in done.stdout


@needs_disks
def test_power_loss_of_a_store_that_does_not_sync(fuse: None, tmp_path: Path) -> None:
    """Losses are found of a store that acknowledges an fsync before its bytes are durable."""
    (tmp_path / "sitecustomize.py").write_text("import os\nos.fdatasync = lambda fd: None\n")
    done = call(*POWER_LOSS, "--points", "3", path=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "0 lost" not in done.stdout


def test_killed_daemon(fuse: None, tmp_path: Path) -> None:
    """A daemon killed under load loses nothing that was promised."""
    done = call("tools.trust.kill_daemon", "--kills", "1", "--folder", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
