"""The space benchmark counts right, and reports a file that came back wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import CHECKOUT, MODELS
from tools.bench.space import ours
from tools.corpus import manifest

DEADLINE = 300.0  # seconds

pytestmark = pytest.mark.mount


def space(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.bench.space", *options],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus of three models of the family, and a copy of one."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("base", "base-bf16", "finetune"):
        shutil.copyfile(MODELS / f"{name}.safetensors", folder / f"{name}.safetensors")
    shutil.copyfile(MODELS / "base.safetensors", folder / "copy.safetensors")
    return folder


@pytest.mark.usefixtures("fuse")
def test_sizes_and_classes(corpus: Path, tmp_path: Path) -> None:
    """The classes add up to the files' sizes, and a copy is in the class of identical files."""
    done = space("--no-peers", "--json", "--folder", tmp_path, corpus)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    sizes = {path.name: path.stat().st_size for path in corpus.iterdir()}
    classes = {each["name"]: each for each in found["classes"]}
    assert sum(each["logical"] for each in classes.values()) == sum(sizes.values())
    assert classes["identical file"]["logical"] == sizes["copy.safetensors"]
    assert [row["name"] for row in found["sizes"]] == ["modelfs, synced", "modelfs, optimized"]
    assert list(tmp_path.iterdir()) == [corpus]


@pytest.mark.usefixtures("fuse")
def test_variants(corpus: Path, tmp_path: Path) -> None:
    """The growth of each file is printed in the order of the manifest; a copy adds under 1 %."""
    kinds = {"base": "base", "base-bf16": "cast-bf16", "copy": "pickle"}
    made = [(f"{name}.safetensors", kind, "") for name, kind in kinds.items()]
    manifest.write(corpus, made, {})
    done = space("--variants", "--json", "--folder", tmp_path, corpus)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert [(each["family"], each["entry"]["kind"]) for each in found] == [
        ("all", "base"),
        ("all", "cast-bf16"),
        ("all", "pickle"),
        ("BF16", "cast-bf16"),
    ]
    assert found[0]["percent"] > 50
    assert found[2]["percent"] < 1


@pytest.mark.usefixtures("fuse")
def test_a_file_that_comes_back_wrong(corpus: Path, tmp_path: Path) -> None:
    """A file with another digest than the copied one is named, and no others."""
    digests = {path.name: manifest.sha256(path) for path in corpus.iterdir()}
    digests["base.safetensors"] = digests["finetune.safetensors"]
    with ours.fresh(tmp_path) as mount:
        assert ours.measure(mount, corpus, digests).wrong == ["base.safetensors"]


def test_dispatcher_knows_its_benchmarks() -> None:
    """An unknown script is wrong usage, and the message lists the scripts."""
    done = subprocess.run(
        [CHECKOUT / "tools" / "run", "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert {"bench.speed", "corpus", "trust.load"} <= set(done.stderr.split())
