"""Does gc end by itself in a store of very many small chunks, and with how much memory?

    tools/run trust.many_chunks [--tensors N] [--folder DIR]

Models with N tensors of 160 bytes in all are stored, each tensor a chunk of its own, and collected
twice through a mount. Then half of the tensors are written again with other bytes, and the daemon
is left alone until it has collected the old ones by itself.

Prints for each step its seconds, the bytes that it freed, the daemon's own memory at most, and the
slowest of the look-ups that were made beside it. Exits with 1 if a second collection finds anything
to free, if the daemon does not come to rest, or if fsck has findings.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tools.mounting import Mount, modelfs

WIDTH: Final = 40  # numbers of 4 bytes in a tensor
MODEL_TENSORS: Final = 50_000
REST_SECONDS: Final = 600.0  # the most that the daemon may take to collect by itself
QUIET_SECONDS: Final = 50.0  # without a change of the packs for so long, it is at rest


@dataclass
class Watch:
    """What was seen of a daemon during a step."""

    memory: int = 0  # bytes at most, without the pages of mapped files: the index is one
    lookups: list[float] = field(default_factory=list)  # seconds


@contextmanager
def watched(mount: Mount) -> Iterator[Watch]:
    """Watch the daemon's memory and look a name up, again and again, while the block lasts."""
    watch, ended = Watch(), threading.Event()
    status = Path(f"/proc/{mount.pid}/status")

    def look() -> None:
        number = 0
        while not ended.wait(0.05):
            line = next(row for row in status.read_text().splitlines() if row.startswith("RssAnon"))
            watch.memory = max(watch.memory, int(line.split()[1]) << 10)
            began = time.monotonic()
            number += 1
            (mount.path / f"missing {number}").exists()
            watch.lookups.append(time.monotonic() - began)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


def packed(mount: Mount) -> dict[str, int]:
    """Return the sizes of the packs."""
    return {path.name: path.stat().st_size for path in (mount.store / "packs").iterdir()}


def show(step: str, seconds: float, freed: int, watch: Watch) -> None:
    print(
        f"{step:24} {seconds:7.1f} s {freed / 1e6:9.2f} MB freed {watch.memory / 2**20:6.0f} MiB "
        f"{1000 * max(watch.lookups, default=0):6.0f} ms",
        flush=True,
    )


def header_of(tensors: int) -> bytes:
    """Return the header of a safetensors file."""
    size = 4 * WIDTH
    entries = (
        f'"{n}":{{"dtype":"F32","shape":[{WIDTH}],"data_offsets":[{n * size},{(n + 1) * size}]}}'
        for n in range(tensors)
    )
    header = ("{" + ",".join(entries) + "}").encode()
    return len(header).to_bytes(8, "little") + header


def write(mount: Mount, tensors: int) -> None:
    """Write models, and sync each."""
    chance = random.Random(1)
    for number, start in enumerate(range(0, tensors, MODEL_TENSORS)):
        count = min(MODEL_TENSORS, tensors - start)
        with (mount.path / f"{number}").open("wb") as file:
            file.write(header_of(count))
            file.write(chance.randbytes(count * 4 * WIDTH))
        mount.sync()


def write_half(mount: Mount) -> None:
    """Write each second tensor of all models again, and sync each model."""
    chance = random.Random(2)
    for path in mount.path.iterdir():
        with path.open("r+b") as file:
            size = int.from_bytes(file.read(8), "little")
            for at in range(8 + size, path.stat().st_size, 8 * WIDTH):
                file.seek(at)
                file.write(chance.randbytes(4 * WIDTH))
        mount.sync()


def rest(mount: Mount) -> float:
    """Wait until the packs do not change any more, and return the seconds until then."""
    began = changed = time.monotonic()
    before = packed(mount)
    while time.monotonic() < changed + QUIET_SECONDS:
        time.sleep(1)
        if (now := packed(mount)) != before:
            before, changed = now, time.monotonic()
        if changed > began + REST_SECONDS:
            return changed - began
    return changed - began


def run(mount: Mount, tensors: int) -> bool:
    """Do all steps, and return whether each was as it should be."""
    modelfs("mkfs", mount.store)
    mount.start()
    good = True
    with watched(mount) as watch:
        began = time.monotonic()
        write(mount, tensors)
        show("stored", time.monotonic() - began, 0, watch)
    for number in (1, 2):
        with watched(mount) as watch:
            before, began = packed(mount), time.monotonic()
            modelfs("gc", mount.path)
            freed = sum(before.values()) - sum(packed(mount).values())
            show(
                f"gc, the {('1st', '2nd')[number - 1]} time", time.monotonic() - began, freed, watch
            )
        good &= number == 1 or packed(mount) == before
    with watched(mount) as watch:
        write_half(mount)
        before, seconds = packed(mount), rest(mount)
        freed = sum(before.values()) - sum(packed(mount).values())
        show("by itself, half is old", seconds, freed, watch)
    good &= seconds < REST_SECONDS
    garbage = json.loads(modelfs("stats", "--json", mount.path))
    print(f"{garbage['chunks']:,} chunks, {sum(packed(mount).values()):,} bytes in packs")
    mount.finish()
    return good


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/run trust.many_chunks", description=__doc__)
    parser.add_argument("--tensors", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="modelfs-trust-") as scratch:
        mount = Mount(Path(scratch) / "store", Path(scratch) / "mnt")
        try:
            return 0 if run(mount, options.tensors) else 1
        finally:
            mount.abandon()


if __name__ == "__main__":
    sys.exit(main())
