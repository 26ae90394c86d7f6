"""How fast is a stored file read through a mount, for the first time and again?

    tools/run bench.read [--size MIB] [--rounds N] [--folder DIR]

Writes one safetensors file of random numbers. In every round, reads it from the plain folder
(kernel page cache: the machine's own speed), mounts the store again and reads it for the first time
(the mount's kernel cache is empty, no chunk is verified, packs are in the page cache), and reads it
once more. A first round warms up and does not count. Prints the medians in GB/s (10^9).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tools.mounting import Mount, modelfs, mounted

NAME = "model.safetensors"
BLOCK = 1 << 20


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="modelfs-bench-") as scratch:
        folder = Path(scratch)
        plain, store = folder / "plain.safetensors", folder / "store"
        make(plain, options.size)
        modelfs("mkfs", store)
        with mounted(store, folder / "mnt") as mount:
            (mount.path / NAME).write_bytes(plain.read_bytes())
            mount.sync()
            rounds = [_round(plain, mount) for _ in range(options.rounds + 1)][1:]
    _show(rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run bench.read", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--size", type=int, default=1024, help="of the file, in MiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    return parser.parse_args()


def make(path: Path, mib: int) -> None:
    rng = np.random.default_rng(1)
    names = [f"layer.{number}.weight" for number in range(max(1, mib // 16))]
    save_file({name: rng.standard_normal((4096, 1024), dtype=np.float32) for name in names}, path)


def _round(plain: Path, mount: Mount) -> tuple[float, float, float]:
    of_machine = _speed(plain)
    mount.unmount()
    for pack in (mount.store / "packs").iterdir():
        _speed(pack)
    mount.start()
    stored = mount.path / NAME
    return of_machine, _speed(stored), _speed(stored)


def _speed(path: Path) -> float:
    buffer = bytearray(BLOCK)
    total = 0
    with path.open("rb", buffering=0) as file:
        start = time.perf_counter()
        while got := file.readinto(buffer):
            total += got
        return total / (time.perf_counter() - start) / 1e9


def _show(rounds: list[tuple[float, float, float]]) -> None:
    names = ("plain folder, page cache", "mount, first read", "mount, read again")
    columns = list(zip(*rounds, strict=True))
    for name, column in zip(names, columns, strict=True):
        ratio = statistics.median(a / b for a, b in zip(column, columns[0], strict=True))
        low, middle, high = min(column), statistics.median(column), max(column)
        print(f"{name:26} {middle:5.2f} GB/s  ({low:.2f} to {high:.2f}), {ratio:.2f} of the first")


if __name__ == "__main__":
    main()
