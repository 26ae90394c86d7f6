"""The files that are written and read: made once, when a work first needs them."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tools.bench import decode

MIB: Final = 1 << 20
MODEL: Final = "model.safetensors"
TENSOR: Final = 4 * MIB
FORMS_MIB: Final = 256  # of each optimized file, at most: they are decoded, not only carried
FORMS: Final = ("BF16 planes", "F32 planes", "F32 delta")
EXTENT: Final = 1 << 10
SMALL_EXTENT: Final = 160
FEW_CHUNKS: Final = 1000
MODEL_CHUNKS: Final = 50_000  # in one file
BESIDE_MIB: Final = 256  # of the model that lies beside many chunks, at most
SMALL: Final = 1 << 10
IN_FOLDER: Final = 100  # files of the repository
# The settings of git that count are those of the benchmark.
GIT: Final = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    size: int  # of a model, in MiB
    rounds: int
    files: int  # small ones
    extents: int
    chunks: int  # of a large store
    family: Path


@dataclass(frozen=True, slots=True)
class Library:
    """Files that are read: `make` puts them into a folder."""

    name: str
    make: Callable[[Path, Settings], None]
    is_optimized: bool = True


class Sources:
    """A folder with everything that is copied into volumes."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        folder.mkdir()

    @cached_property
    def model(self) -> Path:
        """A model of trained weights."""
        path = self.folder / MODEL
        make(path, self.settings.size)
        return path

    @cached_property
    def archive(self) -> Path:
        """A tar of the model."""
        path = self.folder / "model.tar"
        model = self.model
        subprocess.run(["tar", "-cf", path, "-C", model.parent, model.name], check=True)
        return path

    @cached_property
    def repository(self) -> Path:
        """A git directory with one commit, of many small files."""
        tree = self.folder / "tree"
        for number in range(self.settings.files):
            file = tree / f"{number // IN_FOLDER:03}" / f"{number}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text((f"file {number}\n" * SMALL)[:SMALL])
        path = self.folder / "repository.git"
        git(path, tree, "init", "--quiet")
        git(path, tree, "add", "--all")
        identity = ("-c", "user.name=bench", "-c", "user.email=bench")
        git(path, tree, *identity, "commit", "--quiet", "--message=all")
        shutil.rmtree(tree)
        return path

    def library(self, library: Library) -> Path:
        """Return the folder of a library's files."""
        folder = self.folder / library.name
        if not folder.exists():
            folder.mkdir()
            library.make(folder, self.settings)
        return folder


def make(path: Path, mib: int) -> None:
    """Write a safetensors file of random numbers of about a size in MiB."""
    rng = np.random.default_rng(1)
    shape = (min(16, mib) * 256, 1024)
    names = [f"layer.{number}.weight" for number in range(max(1, mib // 16))]
    save_file({name: rng.standard_normal(shape, dtype=np.float32) for name in names}, path)


def git(repository: Path, tree: Path, *words: str, env: Mapping[str, str] | None = None) -> None:
    """Run a command of git.

    Raises:
        CalledProcessError: it failed.
    """
    command = ["git", f"--git-dir={repository}", f"--work-tree={tree}", *words]
    subprocess.run(command, check=True, cwd=tree, env={**os.environ, **GIT, **(env or {})})


# -- libraries


def _random_bits(path: Path, count: int, size: int, seed: int = 0) -> None:
    # Random bits have no smaller form: a file of them stays plain.
    rng = np.random.default_rng([2, seed])
    bits: dict[str, NDArray[np.uint32]] = {
        f"{number}.weight": np.frombuffer(rng.bytes(size), "<u4") for number in range(count)
    }
    save_file(bits, path)


def _plain(folder: Path, settings: Settings) -> None:
    size = min(TENSOR, settings.size * MIB)
    _random_bits(folder / MODEL, settings.size * MIB // size, size)


def _forms(folder: Path, settings: Settings) -> None:
    count = max(1, min(settings.size, FORMS_MIB) * MIB // decode.TENSOR)
    decode.fill(folder, count, FORMS)


def _family(folder: Path, settings: Settings) -> None:
    shutil.copytree(settings.family, folder, dirs_exist_ok=True)


def _extents(folder: Path, settings: Settings) -> None:
    _random_bits(folder / MODEL, settings.extents, EXTENT)


def _few_chunks(folder: Path, settings: Settings) -> None:
    _beside(folder, settings, min(FEW_CHUNKS, settings.chunks))


def _many_chunks(folder: Path, settings: Settings) -> None:
    _beside(folder, settings, settings.chunks)


def _beside(folder: Path, settings: Settings, chunks: int) -> None:
    make(folder / MODEL, min(settings.size, BESIDE_MIB))
    for start in range(0, chunks, MODEL_CHUNKS):
        count = min(MODEL_CHUNKS, chunks - start)
        _random_bits(folder / f"chunks-{start}.safetensors", count, SMALL_EXTENT, seed=start)


PLAIN: Final = Library("plain", _plain)
OPTIMIZED: Final = Library("forms", _forms)
FAMILY: Final = Library("family", _family)
EXTENTS: Final = Library("extents", _extents, is_optimized=False)
FEW: Final = Library("few-chunks", _few_chunks, is_optimized=False)
MANY: Final = Library("many-chunks", _many_chunks, is_optimized=False)
