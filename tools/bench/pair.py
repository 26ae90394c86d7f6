"""Is this version as fast as another one, and does its daemon take as much CPU time?

    tools/run bench.pair OTHER [--rounds N] [--work read,decode,write] [--folder DIR]

OTHER is a checkout with a .venv of its own, as tools/setup makes it. Both versions get stores of
the same files, made once. In every round each of them, in alternating order, does all works: reads
a file of 1 GiB through a new mount, and again; reads optimized files, each through a new mount;
copies a file of 512 MiB into a new store, and once more. A first round warms up and does not count.

Prints medians: GB/s (10^9) of both, the median of the ratios in a round, CPU seconds of the daemon
for a GB, and their ratio. CPU time differs less from run to run than wall time does.
"""

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from tools.bench import decode, read
from tools.mounting import CHECKOUT

MODEL_MIB: Final = 1024
COPY_MIB: Final = 512
OPTIMIZED: Final = 32  # tensors of 4 MiB in each file


class Sample(NamedTuple):
    """One measurement."""

    speed: float  # GB/s
    cpu: float  # seconds for a GB


class Version:
    """One of the two versions, and its stores."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.samples: dict[str, list[Sample]] = {}
        self._modelfs = (checkout / ".venv" / "bin" / "python", "-m", "modelfs")
        self._checkout = checkout
        self._folder = folder
        self._mountpoint = folder / "mnt"
        self._mountpoint.mkdir(parents=True)

    def run(self, *arguments: object) -> None:
        command = [str(word) for word in (*self._modelfs, *arguments)]
        subprocess.run(command, cwd=self._checkout, check=True, capture_output=True, timeout=600)

    @contextmanager
    def mounted(self, store: str) -> Iterator[Path]:
        for pack in (self._folder / store / "packs").iterdir():
            decode.read(pack)  # into the kernel's page cache
        self.run("mount", self._folder / store, self._mountpoint)
        try:
            yield self._mountpoint
        finally:
            self.run("umount", self._mountpoint)

    def make(self, store: str, files: Path, *, optimized: bool = False) -> None:
        self.run("mkfs", self._folder / store)
        with self.mounted(store) as mount:
            for file in sorted(files.iterdir()):
                shutil.copy(file, mount)
        self.run("optimize" if optimized else "sync", self._folder / store)

    def note(self, name: str, work: Callable[[], int]) -> None:
        """Measure a work, which returns how many bytes it was on."""
        decode.touch_memory()
        cpu, start = self._cpu_seconds(), time.perf_counter()
        size = work()
        seconds = time.perf_counter() - start
        sample = Sample(size / seconds / 1e9, (self._cpu_seconds() - cpu) / size * 1e9)
        self.samples.setdefault(name, []).append(sample)

    def _cpu_seconds(self) -> float:
        """Return the CPU time of the daemon so far, without threads that have ended."""
        found = subprocess.run(
            ["pgrep", "-f", f"modelfs mount .*{self._mountpoint}$"],
            capture_output=True,
            check=True,
            timeout=60,
        )
        process = Path("/proc", found.stdout.split()[0].decode())
        stats = [(task / "schedstat").read_text() for task in (process / "task").iterdir()]
        return sum(int(line.split()[0]) for line in stats) / 1e9

    # -- works

    def read(self) -> None:
        with self.mounted("read") as mount:
            for name in ("first read", "read again"):
                self.note(name, lambda: decode.read(mount / "model.safetensors"))

    def decode(self) -> None:
        for file in sorted((self._folder.parent / "optimized").iterdir()):
            with self.mounted("optimized") as mount:
                read_file = partial(decode.read, mount / file.name)
                self.note(file.stem.replace("-", " "), read_file)

    def write(self) -> None:
        shutil.rmtree(self._folder / "written", ignore_errors=True)
        self.run("mkfs", self._folder / "written")
        source = self._folder.parent / "copied.safetensors"
        decode.read(source)
        with self.mounted("written") as mount:
            for name in ("copy in", "copy again"):
                self.note(name, partial(_copy, source, mount / name))
                self.run("sync", mount)


def _copy(source: Path, target: Path) -> int:
    shutil.copyfile(source, target)
    return target.stat().st_size


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="modelfs-bench-") as scratch:
        folder = Path(scratch)
        _make_files(folder)
        other = Version(options.other.resolve(), folder / "other")
        this = Version(CHECKOUT, folder / "this")
        for version in (other, this):
            version.make("read", folder / "model")
            version.make("optimized", folder / "optimized", optimized=True)
        for number in range(options.rounds + 1):
            for work in options.work.split(","):
                for version in (other, this) if number % 2 else (this, other):
                    getattr(version, work)()
            if number == 0:
                this.samples.clear()
                other.samples.clear()
    _show(other.samples, this.samples)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run bench.pair", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("other", type=Path, help="a checkout of the other version")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", default="read,decode,write", help="with commas")
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    return parser.parse_args()


def _make_files(folder: Path) -> None:
    for name in ("model", "optimized"):
        (folder / name).mkdir()
    read.make(folder / "model" / "model.safetensors", MODEL_MIB)
    read.make(folder / "copied.safetensors", COPY_MIB)
    decode.fill(folder / "optimized", OPTIMIZED)


def _show(old: dict[str, list[Sample]], new: dict[str, list[Sample]]) -> None:
    print(f"{'':16} {'other':>6} {'this':>6}  ratio   {'CPU s':>6} {'this':>6}  ratio")
    for name, before in old.items():
        sides = before, new[name]
        pairs = list(zip(*sides, strict=True))
        speeds = [statistics.median(sample.speed for sample in side) for side in sides]
        times = [statistics.median(sample.cpu for sample in side) for side in sides]
        ratio = statistics.median(this.speed / other.speed for other, this in pairs)
        print(
            f"{name:16} {speeds[0]:6.2f} {speeds[1]:6.2f}  {ratio:5.2f}   "
            f"{times[0]:6.2f} {times[1]:6.2f}  {times[1] / max(times[0], 0.001):5.2f}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
