"""After random operations on files, every byte is the one that a model predicts."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.mount

EXERCISE = (sys.executable, "-m", "tools.trust.exercise")
DEADLINE = 300.0  # seconds


@pytest.mark.usefixtures("fuse")
def test_ten_thousand_operations() -> None:
    """Four processes at a time find no wrong byte, nor a wrong name, size or number of links."""
    done = subprocess.run(
        [*EXERCISE, "--operations", "10000", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_exerciser_on_a_folder(tmp_path: Path) -> None:
    """The exerciser is right about what files do: it finds nothing wrong with a plain folder."""
    done = subprocess.run(
        [*EXERCISE, "--operations", "2000", "--pause", "100", tmp_path],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
