"""The benchmark of speed measures mounts beside a plain folder, and writes each sample down."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DEADLINE = 300.0  # seconds
TINY = ("--size", "1", "--rounds", "1", "--files", "10", "--no-peers")


def speed(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.bench.speed", *TINY, *options],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@pytest.mark.mount
@pytest.mark.usefixtures("fuse")
def test_works_on_a_mount(tmp_path: Path) -> None:
    """Each figure has a positive sample of each system, and the scratch folder is removed."""
    scratch, found = tmp_path / "scratch", tmp_path / "found.json"
    scratch.mkdir()
    done = speed("--folder", scratch, "--json", found, "--work", "cp", "read")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {each["name"]: each for each in json.loads(found.read_text())["figures"]}
    assert {"cp: closed", "cp: settled", "read: first", "read: again"} <= set(figures)
    for name, figure in figures.items():
        assert name in done.stdout
        assert list(figure["samples"]) == ["plain", "modelfs"]
        for [sample] in figure["samples"].values():
            assert sample["round"] == 1
            assert sample["value"] > 0
    assert list(scratch.iterdir()) == []


@pytest.mark.mount
@pytest.mark.usefixtures("fuse")
def test_two_mounts(tmp_path: Path) -> None:
    """Mounts with different options are beside each other; a copy within them stores no chunk."""
    found = tmp_path / "found.json"
    options = ("--compare", ",cache_size=64MiB", "--work", "within")
    done = speed("--folder", tmp_path, "--json", found, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    time, added = json.loads(found.read_text())["figures"]
    mounts = ["modelfs as is", "modelfs cache_size=64MiB"]
    assert list(time["samples"]) == ["plain", *mounts]
    assert {
        name: samples[0]["value"] for name, samples in added["samples"].items()
    } == dict.fromkeys(mounts, 0)
    assert done.stdout.splitlines()[0].split().count("modelfs") == 2


def test_a_work_that_does_not_exist() -> None:
    """It is wrong usage, and the message lists the works."""
    done = speed("--work", "cp", "fly")
    assert done.returncode == 2
    assert "no work fly; there are chunks, cp, " in done.stderr
