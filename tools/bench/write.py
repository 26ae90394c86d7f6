"""How fast is a model copied into a mount, compared with a plain folder?

    tools/run bench.write [--size MIB] [--rounds N] [--folder DIR]

In every round, each with a new store: copies one safetensors file of random numbers to a plain
folder, copies it into a mount, waits with `modelfs sync` until it is in chunks, copies it in again
under another name, and waits again. The copies end with an fsync. Prints the medians in GB/s (10^9
bytes of the file a second), and the stored bytes that the second copy adds.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tools.mounting import modelfs, mounted

STEPS = ("plain folder", "mount", "mount, until ingested", "again", "again, until ingested")


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="modelfs-bench-") as scratch:
        folder = Path(scratch)
        source = folder / "source.safetensors"
        _make(source, options.size)
        rounds = [_round(folder, source) for _ in range(options.rounds + 1)][1:]
    for at, name in enumerate(STEPS):
        column = [speeds[at] for speeds, _ in rounds]
        ratio = statistics.median(speeds[at] / speeds[0] for speeds, _ in rounds)
        spread = f"({min(column):.2f} to {max(column):.2f})"
        print(
            f"{name:24} {statistics.median(column):5.2f} GB/s  {spread}, {ratio:.2f} of the first"
        )
    print(f"the second copy added {max(added for _, added in rounds)} stored bytes")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run bench.write", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--size", type=int, default=1024, help="of the file, in MiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    return parser.parse_args()


def _make(path: Path, mib: int) -> None:
    rng = np.random.default_rng(1)
    names = [f"layer.{number}.weight" for number in range(max(1, mib // 16))]
    save_file({name: rng.standard_normal((4096, 1024), dtype=np.float32) for name in names}, path)


def _round(folder: Path, source: Path) -> tuple[list[float], int]:
    store, plain = folder / "store", folder / "plain"
    os.sync()
    size = source.stat().st_size
    speeds = [_speed(size, partial(_copy, source, plain))]
    plain.unlink()
    modelfs("mkfs", store)
    with mounted(store, folder / "mnt") as mount:
        for name in ("first", "second"):
            before = _stored(mount.path)
            start = time.perf_counter()
            speeds.append(_speed(size, partial(_copy, source, mount.path / name)))
            mount.sync()
            speeds.append(size / (time.perf_counter() - start) / 1e9)
        added = _stored(mount.path) - before
    shutil.rmtree(store)
    return speeds, added


def _speed(size: int, work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return size / (time.perf_counter() - start) / 1e9


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _stored(mountpoint: Path) -> int:
    stored: int = json.loads(modelfs("stats", mountpoint, "--json"))["stored_bytes"]
    return stored


if __name__ == "__main__":
    main()
