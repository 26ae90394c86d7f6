"""Is this version as fast as another one, and does its daemon take as much CPU time?

    tools/run bench.pair OTHER [--size MIB] [--rounds N] [--work NAME ...] [--folder DIR]

OTHER is a checkout with a .venv of its own, as tools/setup makes it. Both versions get stores of
the same files. In every round each of them, in alternating order, reads a file through a new mount,
and again; reads optimized files, each through a new mount; copies a file into a new store, and
again. A first round warms up and does not count.

Prints medians: GB/s (10^9) of both, the median of the ratios in a round, CPU seconds of the daemon
for a GB, and their ratio. CPU time differs less from run to run than wall time does.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from tools.bench import decode
from tools.bench.speed.sources import make
from tools.mounting import Mount, modelfs, mounted

MODEL: Final = Path("read", "model.safetensors")
COPIED: Final = "copied.safetensors"


class Sample(NamedTuple):
    speed: float  # GB/s
    cpu: float  # seconds for a GB


Samples = Iterator[tuple[str, Sample]]
Pair = tuple[Sample, Sample]  # of the other version, and of this one


class Version(NamedTuple):
    """A version of modelfs, the folder of its stores, and that of the files for both versions."""

    program: tuple[str, ...]
    folder: Path
    files: Path

    def mounted(self, store: str) -> AbstractContextManager[Mount]:
        """Mount a store while the block lasts, with its packs in the kernel's page cache."""
        for pack in (self.folder / store / "packs").iterdir():
            decode.read(pack)
        return mounted(self.folder / store, self.folder / "mnt", program=self.program)


def read_twice(version: Version) -> Samples:
    with version.mounted("read") as mount:
        work = partial(decode.read, mount.path / MODEL.name)
        for name in ("first read", "read again"):
            yield name, _measured(mount, version.files / MODEL, work)


def read_optimized(version: Version) -> Samples:
    for file in sorted((version.files / "decode").iterdir()):
        with version.mounted("decode") as mount:
            work = partial(decode.read, mount.path / file.name)
            yield file.stem.replace("-", " "), _measured(mount, file, work)


def copy_twice(version: Version) -> Samples:
    store, file = version.folder / "written", version.files / COPIED
    shutil.rmtree(store, ignore_errors=True)
    modelfs("mkfs", store, program=version.program)
    decode.read(file)
    with version.mounted(store.name) as mount:
        for name in ("copy in, no fsync", "the same again"):
            yield name, _measured(mount, file, partial(shutil.copyfile, file, mount.path / name))
            mount.sync()


WORKS: Final = {"read": read_twice, "decode": read_optimized, "write": copy_twice}


def _measured(mount: Mount, file: Path, work: Callable[[], object]) -> Sample:
    decode.touch_memory()
    cpu, start = mount.cpu_seconds(), time.perf_counter()
    work()
    seconds, gb = time.perf_counter() - start, file.stat().st_size / 1e9
    return Sample(gb / seconds, (mount.cpu_seconds() - cpu) / gb)


def main() -> None:
    parser = argparse.ArgumentParser("tools/run bench.pair", description="Compare two versions.")
    parser.add_argument("other", type=Path, help="a checkout of the other version")
    parser.add_argument("--size", type=int, default=1024, help="MiB that are read first")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="modelfs-bench-") as scratch:
        folder, files = Path(scratch), Path(scratch, "files")
        for path in (folder / "other", folder / "this", files / "read", files / "decode"):
            path.mkdir(parents=True)
        make(files / MODEL, options.size)
        make(files / COPIED, options.size // 2)
        decode.fill(files / "decode", max(1, options.size // 32))
        other = _prepared(options.other.absolute() / ".venv/bin/python", folder / "other", files)
        this = _prepared(Path(sys.executable), folder / "this", files)
        rounds = [_round(other, this, options.work, turn) for turn in range(options.rounds + 1)]
    _show(rounds[1:])


def _prepared(python: Path, folder: Path, files: Path) -> Version:
    program = (str(python), "-I", "-m", "modelfs")  # -I: without PYTHONPATH and working folder
    version = Version(program, folder, files)
    for store, command in (("read", "sync"), ("decode", "optimize")):
        modelfs("mkfs", folder / store, program=program)
        with version.mounted(store) as mount:
            shutil.copytree(files / store, mount.path, dirs_exist_ok=True)
        modelfs(command, folder / store, program=program)
    return version


def _round(other: Version, this: Version, works: list[str], turn: int) -> dict[str, Pair]:
    found: dict[Version, dict[str, Sample]] = {other: {}, this: {}}
    for work in works:
        for version in (other, this) if turn % 2 else (this, other):
            found[version].update(WORKS[work](version))
    return {name: (found[other][name], sample) for name, sample in found[this].items()}


def _show(rounds: list[dict[str, Pair]]) -> None:
    print(f"{'':17} {'other':>6} {'this':>6}  ratio   {'CPU s':>6} {'this':>6}  ratio")
    for name in rounds[0]:
        pairs = [each[name] for each in rounds]
        columns = zip(*(other + this for other, this in pairs), strict=True)
        speed, cpu, speed_now, cpu_now = map(statistics.median, columns)
        ratio = statistics.median(this.speed / other.speed for other, this in pairs)
        print(
            f"{name:17} {speed:6.2f} {speed_now:6.2f}  {ratio:5.2f}   "
            f"{cpu:6.2f} {cpu_now:6.2f}  {cpu_now / max(cpu, 0.001):5.2f}"
        )


if __name__ == "__main__":
    main()
