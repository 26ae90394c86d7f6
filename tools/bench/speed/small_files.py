"""Many small files: made, checked out, listed and removed."""

import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tools.bench.speed.figures import Figure, Floor, Unit
from tools.bench.speed.peers import PYFUSE3
from tools.bench.speed.sources import SMALL, git
from tools.bench.speed.turn import Turn, Work
from tools.bench.speed.volumes import System
from tools.mounting import Failed

CONTENT: Final = bytes(range(256)) * (SMALL // 256)

# Times are for one file.
CREATE: Final = Figure("create, write, close 1 KiB", Unit.TIME, (
    Floor(0.35, None), Floor(1.0, PYFUSE3),
))  # fmt: skip
CHECKOUT: Final = Figure("git checkout", Unit.TIME)
LIST: Final = Figure("ls -l: first", Unit.TIME)
LIST_AGAIN: Final = Figure("ls -l: again", Unit.TIME)
REMOVE: Final = Figure("rm -r", Unit.TIME)


@dataclass(frozen=True, slots=True)
class Create(Work):
    """Files of 1 KiB in one folder."""

    def suits(self, system: System) -> bool:
        return system.can_write

    def measure(self, turn: Turn) -> None:
        count = turn.sources.settings.files
        with turn.empty() as volume:
            turn.clock(volume, count, {CREATE: partial(create, volume.path, count)})
            if turn.is_warm_up:
                check(volume.path, count)


def create(folder: Path, count: int) -> None:
    for number in range(count):
        with (folder / f"{number}").open("xb", buffering=0) as file:
            file.write(CONTENT)


def check(folder: Path, count: int) -> None:
    """Compare the files of a folder with those of `create`.

    Raises:
        Failed: they differ.
    """
    right = sum(path.read_bytes() == CONTENT for path in folder.iterdir())
    if right != count:
        raise Failed(f"{count - right:,} small files came back wrong")


@dataclass(frozen=True, slots=True)
class Checkout(Work):
    """A repository that is checked out, listed after a new mount, and removed."""

    def suits(self, system: System) -> bool:
        return system.can_write

    def measure(self, turn: Turn) -> None:
        repository = turn.sources.repository
        count = turn.sources.settings.files
        with turn.empty() as volume:
            tree = volume.path / "tree"
            tree.mkdir()
            index = {"GIT_INDEX_FILE": str(volume.folder / "index")}
            checkout = partial(git, repository, tree, "checkout", "--force", "HEAD", "--", ".")
            turn.clock(volume, count, {CHECKOUT: partial(checkout, env=index)})
            if turn.is_warm_up:
                git(repository, tree, "diff", "--exit-code", "--quiet", "HEAD", env=index)
            volume.stop()
            volume.start()
            for figure in (LIST, LIST_AGAIN):
                turn.clock(volume, count, {figure: partial(list_all, tree)})
            turn.clock(volume, count, {REMOVE: partial(remove, tree)})


def list_all(folder: Path) -> int:
    """List a folder by ls(1), and return how many files it showed."""
    done = subprocess.run(["ls", "-lR", folder], check=True, capture_output=True)
    return sum(line.startswith(b"-") for line in done.stdout.splitlines())


def remove(folder: Path) -> None:
    subprocess.run(["rm", "-r", folder], check=True)
