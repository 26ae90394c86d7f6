"""A new model is written into an empty volume, in the ways of several programs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from safetensors.numpy import load_file, save_file

from tools.bench import decode
from tools.bench.speed.figures import Figure, Floor, Unit
from tools.bench.speed.sources import MODEL, Sources
from tools.bench.speed.turn import Turn, Work
from tools.bench.speed.volumes import System

Write = Callable[[Path], None]  # to a path where nothing is yet
Preparation = Callable[[Sources], AbstractContextManager[Write]]


@dataclass(frozen=True, slots=True)
class Writing(Work):
    """One way to write the model."""

    prepare: Preparation
    floors: tuple[Floor, ...]
    program: str = ""

    def lacks(self) -> str:
        return f"needs {self.program}" if self.program and not shutil.which(self.program) else ""

    def suits(self, system: System) -> bool:
        return system.can_write

    def measure(self, turn: Turn) -> None:
        source = turn.sources.model
        decode.read(source)
        with self.prepare(turn.sources) as write, turn.empty() as volume:
            target = volume.path / MODEL
            closed = Figure(f"{self.name}: closed", Unit.SPEED, self.floors)
            durable = Figure(f"{self.name}: to fsync", Unit.SPEED, self.floors)
            settled = Figure(f"{self.name}: settled", Unit.SPEED)
            steps = {closed: partial(write, target), durable: partial(fsync, target)}
            turn.clock(volume, source.stat().st_size, {**steps, settled: volume.settle})
            turn.check(target, source)


def fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def copy(source: Path, target: Path) -> None:
    """Copy by cp(1), which lets a file system share the bytes if it can."""
    subprocess.run(["cp", source, target], check=True)


@contextmanager
def _cp(sources: Sources) -> Iterator[Write]:
    yield partial(copy, sources.model)


def _blocks(size: int) -> Preparation:
    @contextmanager
    def prepare(sources: Sources) -> Iterator[Write]:
        yield partial(_write_blocks, memoryview(sources.model.read_bytes()), size)

    return prepare


def _write_blocks(data: memoryview, size: int, target: Path) -> None:
    with target.open("wb", buffering=0) as file:
        for start in range(0, len(data), size):
            file.write(data[start : start + size])


@contextmanager
def _tar(sources: Sources) -> Iterator[Write]:
    decode.read(sources.archive)
    yield lambda target: _run("tar", "-xf", sources.archive, "-C", target.parent)


@contextmanager
def _curl(sources: Sources) -> Iterator[Write]:
    with served(sources.model.parent) as address:
        url = f"{address}/{sources.model.name}"
        yield lambda target: _run("curl", "--silent", "--fail", "--output", target, url)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder by HTTP while the block lasts, and return the address."""
    command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]
    server = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdout is not None
    try:
        # Serving HTTP on 127.0.0.1 port 40123 (http://127.0.0.1:40123/) ...
        yield server.stdout.readline().partition("(")[2].partition("/)")[0]
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


@contextmanager
def _save_file(sources: Sources) -> Iterator[Write]:
    yield partial(save_file, load_file(sources.model))


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


MODEL_FLOORS: Final = (Floor(0.75, is_hot=True),)
STREAM_FLOORS: Final = (Floor(0.7, is_hot=True),)

WRITING: Final = (
    Writing("cp", _cp, MODEL_FLOORS),
    Writing("write-1m", _blocks(1 << 20), MODEL_FLOORS),
    Writing("write-16k", _blocks(1 << 14), STREAM_FLOORS),
    Writing("tar", _tar, STREAM_FLOORS),
    Writing("curl", _curl, STREAM_FLOORS, "curl"),
    Writing("save_file", _save_file, MODEL_FLOORS),
)
