"""In how many runs is a model read, and how fast, before and after defragmentation?

    tools/run bench.defrag [MODEL ...] [--size MIB] [--rounds N] [--folder DIR]

There are two stores. The *fresh* one has the models copied in, one after the other. In the
*churned* one they are written side by side, between files that come and go; then parts of each are
overwritten, again and again, half of the models are removed, and garbage is collected in between.
Without models, a family is made whose members share half of their tensors.

Two copies are made of each store, and one is defragmented. Then all models are read alternately
from both, in reads of 1 MiB, each time with a store opened for it and the kernel's caches dropped
(which takes root). Prints for each model its runs, before, after and in the ideal order, and the
median of the speeds. Exits with 1 if a model is not as it was written, or fsck has findings.
"""

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save_file

from modelfs.jobs.check.fsck import check
from modelfs.jobs.defrag.rewrite import Defragmenter
from modelfs.store.create import create_store
from modelfs.store.files.namespace import Owner
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store
from tests.support.run_jobs import collect, defragment, drain, ingest_all, ingest_file
from tools.mounting import drop_kernel_caches

MIB: Final = 1 << 20
FILE: Final = 0o100644
# Bytes written to each file before the next one.
TURN: Final = 8 * MIB
# The number of parts that are overwritten, and their length.
CHANGES: Final = 40
CHANGED: Final = 512 << 10


class Writing:
    """A store that is being filled, and plain files with the same content beside it."""

    def __init__(self, folder: Path) -> None:
        create_store(folder / "store")
        self.store = Store(folder / "store")
        self.plain = folder / "plain"
        self.plain.mkdir()
        self.inodes: dict[str, InodeNumber] = {}

    def write(self, name: str, offset: int, data: bytes) -> None:
        if name not in self.inodes:
            owner = Owner(os.getuid(), os.getgid())
            node = self.store.namespace.create(ROOT, name.encode(), FILE, owner)
            self.inodes[name] = node.inode
            (self.plain / name).touch()
        self.store.writes.write(self.inodes[name], offset, data)
        with (self.plain / name).open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def ingest(self, name: str, *, complete: bool = True) -> None:
        ingest_file(self.store, self.inodes[name], complete=complete)

    def remove(self, name: str) -> None:
        del self.inodes[name]
        (self.plain / name).unlink()
        inode = self.store.namespace.unlink(ROOT, name.encode())
        drain(self.store.orphans.remove(inode))

    def finish(self) -> None:
        ingest_all(self.store)
        collect(self.store)
        self.store.close()


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="modelfs-bench-") as scratch:
        folder = Path(scratch)
        models = options.models or _family(folder / "family", options.size)
        damaged = False
        for name, fill in (("fresh", _fill), ("churned", _churn)):
            place = folder / name
            place.mkdir()
            writing = Writing(place)
            fill(writing, models)
            writing.finish()
            damaged |= not _compare(name, place, options.rounds)
            shutil.rmtree(place)
    return 1 if damaged else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run bench.defrag", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--size", type=int, default=64, help="of a made up model, in MiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    return parser.parse_args()


def _family(folder: Path, mib: int) -> list[Path]:
    folder.mkdir()
    rng = np.random.default_rng(1)
    base = {f"layer.{number:02}": rng.random((mib * 4096, 2), np.float32) for number in range(32)}
    for member in range(8):
        changed = rng.choice(32, 16, replace=False)[: 16 * (member > 0)]
        for number in changed:
            base[f"layer.{number:02}"] = rng.random((mib * 4096, 2), np.float32)
        save_file(base, folder / f"member-{member}")
    return sorted(folder.iterdir())


def _named(models: list[Path]) -> Iterator[tuple[str, bytes]]:
    for number, path in enumerate(models):
        yield f"{number:02} {path.parent.name} {path.name}", path.read_bytes()


def _fill(writing: Writing, models: list[Path]) -> None:
    for name, data in _named(models):
        writing.write(name, 0, data)
        writing.ingest(name)


def _churn(writing: Writing, models: list[Path]) -> None:
    chance = random.Random(1)
    for at in range(0, len(models), 4):
        _write_side_by_side(writing, dict(list(_named(models))[at : at + 4]), chance)
        collect(writing.store)
    for name in list(writing.inodes)[1::2]:
        writing.remove(name)
    for number in range(CHANGES * len(writing.inodes)):
        name = chance.choice(list(writing.inodes))
        size = (writing.plain / name).stat().st_size
        writing.write(name, chance.randrange(MIB, size - CHANGED), chance.randbytes(CHANGED))
        writing.ingest(name)
        if number % 50 == 0:
            collect(writing.store)


def _write_side_by_side(writing: Writing, some: dict[str, bytes], chance: random.Random) -> None:
    for offset in range(0, max(map(len, some.values())), TURN):
        for name, data in some.items():
            writing.write(name, offset, data[offset : offset + TURN])
            writing.ingest(name, complete=False)
        passing = f"passing {offset}"
        writing.write(passing, 0, chance.randbytes(TURN))
        writing.ingest(passing)
    for name in some:
        writing.ingest(name)
    for name in [name for name in writing.inodes if name.startswith("passing")]:
        writing.remove(name)


def _compare(title: str, place: Path, rounds: int) -> bool:
    """Print the gain of defragmentation; return whether all files are as they were written."""
    before, after = place / "as it is", place / "packed"
    for path in (before, after):  # both, as a copy may lie better on the disk than its original
        shutil.copytree(place / "store", path)
    was = _runs(before)
    start = time.perf_counter()
    with Store(after) as store:
        plan = Defragmenter(store).plan()
        planned = time.perf_counter()
        defragment(store)
        collect(store)
    took = time.perf_counter() - planned
    now = _runs(after)
    speeds = _speeds((before, after), rounds)
    print(f"\n{title}: {plan.bytes / 1e6:.0f} MB to copy, planned in {planned - start:.2f} s,")
    print(f"copied and collected in {took:.2f} s")
    print(f"{'':40} {'MB':>6} {'runs':>6} {'packed':>6} {'ideal':>6} {'MB/s':>6} {'packed':>6}")
    for name, (runs, ideal) in was.items():
        size = (place / "plain" / name).stat().st_size
        slow, fast = (statistics.median(column) for column in zip(*speeds[name], strict=True))
        print(
            f"{name[-40:]:40} {size / 1e6:6.0f} {runs:6} {now[name][0]:6} {ideal:6} "
            f"{size / slow / 1e6:6.0f} {size / fast / 1e6:6.0f}"
        )
    _show_sums(was, now, speeds)
    return all([_is_sound(before, place / "plain"), _is_sound(after, place / "plain")])


Runs = dict[str, tuple[int, int]]
Seconds = dict[str, list[tuple[float, float]]]


def _show_sums(was: Runs, now: Runs, speeds: Seconds) -> None:
    sums = [sum(column) for column in zip(*was.values(), strict=True)]
    packed = sum(runs for runs, _ in now.values())
    rounds = zip(*speeds.values(), strict=True)
    ratios = [sum(slow for slow, _ in every) / sum(fast for _, fast in every) for every in rounds]
    ratio, low, high = statistics.median(ratios), min(ratios), max(ratios)
    print(f"{'together':47} {sums[0]:6} {packed:6} {sums[1]:6}   packed reads {ratio:.2f} times as")
    print(f"fast ({low:.2f} to {high:.2f} in {len(ratios)} rounds)")


def _runs(path: Path) -> Runs:
    with Store(path, read_only=True) as store:
        measured = Defragmenter(store).measure()
        names = _names(store)
    return {
        names[inode]: (runs, ideal)
        for inode, runs, ideal in zip(
            measured.reads.inodes.tolist(),
            measured.runs.tolist(),
            measured.ideal_runs.tolist(),
            strict=True,
        )
    }


def _names(store: Store) -> dict[int, str]:
    return {inode: name.decode() for _, name, inode in store.dentries.listing(ROOT, 0, 1 << 20)}


def _speeds(stores: tuple[Path, Path], rounds: int) -> Seconds:
    """Return the seconds of a cold read of each model, in each round and both stores."""
    with Store(stores[0], read_only=True) as store:
        names = _names(store)
    os.sync()
    seconds: Seconds = {name: [] for name in names.values()}
    for number in range(rounds):
        for inode, name in names.items():
            order = stores if number % 2 else stores[::-1]  # neither store is always first
            took = {path: _read_cold(path, InodeNumber(inode)) for path in order}
            seconds[name].append((took[stores[0]], took[stores[1]]))
    return seconds


def _read_cold(path: Path, inode: InodeNumber) -> float:
    with Store(path, read_only=True) as store:
        size = store.contents.node(inode).size
        drop_kernel_caches()
        start = time.perf_counter()
        for offset in range(0, size, MIB):
            store.contents.read(inode, offset, MIB)
        return time.perf_counter() - start


def _is_sound(path: Path, plain: Path) -> bool:
    with Store(path, read_only=True) as store:
        wrong = [str(finding) for finding in check(store, data=True)]
        for inode, name in _names(store).items():
            size = store.contents.node(InodeNumber(inode)).size
            if store.contents.read(InodeNumber(inode), 0, size) != (plain / name).read_bytes():
                wrong.append(f"{name} is not what was written")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return not wrong


if __name__ == "__main__":
    sys.exit(main())
