"""How fast is the first read of an optimized file through a mount, form by form?

    tools/run bench.decode [--size MIB] [--rounds N] [--folder DIR]

Makes safetensors files of normally distributed weights: a plain one (random bits, which have no
smaller form), BF16 and F32 that become byte planes, a fine-tune of each that becomes a delta, and a
transposed copy of the F32 one. Runs `modelfs optimize` on them, and checks their forms. In every
round each file is read once by read(2) of 1 MiB and once by mmap, each time through a new mount:
its kernel cache is empty, no chunk is verified or decoded, and the packs are in the kernel's page
cache. A first round warms up and does not count. Before each read, memory is allocated and freed: a
virtual machine's host takes back memory that is free for some seconds, and the next use of such a
page is up to ten times as slow, in any process.

Prints the medians in GB/s (10^9), the stored size of each form, and the ratio to the plain file in
the same round.
"""

import argparse
import mmap
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from modelfs.store.files.read_runs import ChunkRun
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tools.mounting import Mount, modelfs, mounted

BLOCK: Final = 1 << 20
ROWS, COLUMNS = 1024, 1024
TENSOR: Final = ROWS * COLUMNS * 4
TOUCHED: Final = 1 << 30
# The change of a weight by a short training, by which deltas have about the sizes of real ones.
MOVED: Final = {"F32": 3e-5, "BF16": 1e-3}
PLAIN: Final = "plain"
NAMES: Final = (
    *(PLAIN, "F32 planes", "BF16 planes"),
    *("F32 delta", "BF16 delta", "F32 transposed"),
)

Weights = NDArray[Any]
Speeds = dict[str, tuple[float, float]]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="modelfs-bench-") as scratch:
        folder = Path(scratch)
        store = folder / "store"
        modelfs("mkfs", store)
        with mounted(store, folder / "mnt") as mount:
            names = fill(mount.path, max(1, (options.size << 20) // TENSOR))
            mount.sync()
        modelfs("optimize", store)
        stored = forms(store, names)
        rounds = [_round(store, folder / "mnt", names) for _ in range(options.rounds + 1)][1:]
    _show(rounds, stored)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run bench.decode", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--size", type=int, default=128, help="of each F32 file, in MiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    return parser.parse_args()


def fill(folder: Path, count: int, names: Sequence[str] = NAMES) -> list[str]:
    """Write files of so many tensors each, and return their names."""
    rng = np.random.default_rng(1)
    base = [rng.normal(0, 0.03, (ROWS, COLUMNS)).astype("<f4") for _ in range(count)]
    moved = [rng.standard_normal((ROWS, COLUMNS), dtype=np.float32) for _ in range(count)]

    def tuned(dtype: str) -> list[Weights]:
        return [w * (1 + MOVED[dtype] * m) for w, m in zip(base, moved, strict=True)]

    files: dict[str, Callable[[], list[Weights]]] = {
        PLAIN: lambda: [
            np.frombuffer(rng.bytes(TENSOR), "<u4").reshape(ROWS, -1) for _ in range(count)
        ],
        "F32 planes": lambda: base,
        "BF16 planes": lambda: [_bf16(w * 1.7) for w in base],
        "F32 delta": lambda: tuned("F32"),
        "BF16 delta": lambda: [_bf16(w * 1.7) for w in tuned("BF16")],
        "F32 transposed": lambda: [np.ascontiguousarray(w.T) for w in base],
    }
    for name in names:
        tensors = enumerate(files[name]())
        save_file({f"{n}.weight": w for n, w in tensors}, path_of(folder, name))
        if name.startswith("BF16"):
            _rename_type(path_of(folder, name))
    return list(names)


def path_of(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(' ', '-')}.safetensors"


def _bf16(values: Weights) -> Weights:
    bits = values.astype("<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def _rename_type(path: Path) -> None:
    # numpy has no BF16: it was saved as U16. "BF16" fits, as the header has a space of padding.
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(b'"U16"', b'"BF16"').rstrip()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])


def forms(store: Path, names: list[str]) -> dict[str, str]:
    """Return the commonest form of each file's chunks, and their stored size."""
    found = {}
    with Store(store, read_only=True) as opened:
        for name in names:
            file = path_of(Path(), name).name.encode()
            inode = opened.namespace.lookup(ROOT, file)
            runs = opened.contents.plan(inode, 0, 1 << 62)
            records = [run.record for run in runs if isinstance(run, ChunkRun)]
            [(codec, _)] = Counter(record.codec for record in records).most_common(1)
            size = sum(record.size for record in records)
            stored = sum(record.stored for record in records) / size
            found[name] = f"{codec.name.lower()} {stored:.1%}"
    return found


def _round(store: Path, path: Path, names: list[str]) -> Speeds:
    return {
        name: (_first(store, path, name, read), _first(store, path, name, mapped)) for name in names
    }


def _first(store: Path, path: Path, name: str, how: Callable[[Path], int]) -> float:
    for pack in (store / "packs").iterdir():
        read(pack)
    with mounted(store, path) as mount:
        touch_memory()
        return _speed(mount, name, how)


def touch_memory(size: int = TOUCHED) -> None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, size, flags=flags) as memory:
        pages = np.frombuffer(memory, np.uint8)
        pages[:: mmap.PAGESIZE] = 1
        del pages


def _speed(mount: Mount, name: str, how: Callable[[Path], int]) -> float:
    start = time.perf_counter()
    return how(path_of(mount.path, name)) / (time.perf_counter() - start) / 1e9


def read(path: Path) -> int:
    buffer = bytearray(BLOCK)
    total = 0
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(buffer):
            total += got
    return total


def mapped(path: Path) -> int:
    buffer = bytearray(BLOCK)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        view = memoryview(pages)
        for start in range(0, len(view), BLOCK):
            part = view[start : start + BLOCK]
            buffer[: len(part)] = part
        total = len(view)
        view.release()
        part.release()
    return total


def _show(rounds: list[Speeds], forms: dict[str, str]) -> None:
    print(f"{'file':16} {'stored':18} {'read':>5} {'(low to high)':>14} {'mmap':>5}  of plain")
    for name, form in forms.items():
        by_read, by_map = zip(*(speeds[name] for speeds in rounds), strict=True)
        ratio = statistics.median(speeds[name][0] / speeds[PLAIN][0] for speeds in rounds)
        span = f"{min(by_read):.2f} to {max(by_read):.2f}"
        print(
            f"{name:16} {form:18} {statistics.median(by_read):5.2f} {span:>14} "
            f"{statistics.median(by_map):5.2f}  {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
