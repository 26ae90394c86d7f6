"""What does an index of many chunks cost: opening the store, look-ups, commits, memory?

Fills the index of a store with files of 1,000 chunks each, without content, in commits of 10 files.
Then a process of its own opens the store for writing and looks up extents and chunks at random
places, with the index in the page cache. It also adds up the extents of some files, as a read of a
hole does: "extent us" is the processor time for each extent. To compare two versions, run it with
each.
"""

import argparse
import dataclasses
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import track

from modelfs.codecs.base import CodecId
from modelfs.store.create import create_store
from modelfs.store.files.complete_maps import CompleteMaps
from modelfs.store.files.namespace import Owner
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.counters import NEXT_CHUNK
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import ROOT, ChunkId, InodeNumber, PackId
from modelfs.store.store import Store

CHUNKS_OF_FILE: Final = 1000
FILES_OF_COMMIT: Final = 10
SIZE: Final = 1 << 20
LOOKUPS: Final = 100_000
FILES_ADDED_UP: Final = 100
ROUNDS: Final = 5
NOBODY: Final = Owner(0, 0)
COLUMNS: Final = (
    "open s",
    "look-up us",
    "99 % us",
    "attributes us",
    "extent us",
    "fsync ms",
    "RSS MiB",
    "index MB",
)


def main() -> int:
    options = _options()
    if options.measure is not None:
        print(*_measured(options.measure))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        path = Path(scratch, "models.store")
        create_store(path)
        seconds = _fill(path, options.chunks // CHUNKS_OF_FILE)
        console = Console()
        console.print(f"{options.chunks:,} chunks put in {seconds:.1f} s")
        rounds = [_measured_apart(path) for _ in range(ROUNDS)]
        for name, values in zip(COLUMNS, zip(*rounds, strict=True), strict=True):
            median, low, high = statistics.median(values), min(values), max(values)
            console.print(f"{name:14} {median:9.2f}  {low:.2f} to {high:.2f}", highlight=False)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run bench.index", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--chunks", type=int, default=1_000_000, help="default: 1,000,000")
    parser.add_argument("--folder", type=Path, help="where the store lies for the time")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _fill(path: Path, files: int) -> float:
    """Make files of chunks that lie in no pack, and return the seconds that it took."""
    began = time.monotonic()
    with Store(path) as store:
        for number in track(range(files), "filling", console=Console(stderr=True)):
            node = store.namespace.create(ROOT, b"file%d" % number, 0o100644, NOBODY)
            with store.index.change():
                extents = [_extent(store, place) for place in range(CHUNKS_OF_FILE)]
                size = len(extents) * SIZE
                store.maps.replace(node.inode, 0, size, extents)
                present = store.inodes.get(node.inode)
                store.inodes.put(dataclasses.replace(present, size=size))
            if number % FILES_OF_COMMIT == 0:
                store.commit()
    return time.monotonic() - began


def _extent(store: Store, place: int) -> Extent:
    chunk = ChunkId(store.counters.allocate(NEXT_CHUNK))
    digest = chunk.to_bytes(16, "little")
    record = Chunk(
        ChunkKind.LOST, CodecId.RAW, SIZE, PackId(0), 0, 0, 0, 0, chunk, digest, 0, chunk
    )
    store.chunks.add(chunk, record)
    return Extent(place * SIZE, chunk, 0, SIZE)


def _measured_apart(path: Path) -> tuple[float, ...]:
    command = [sys.executable, "-m", "tools.bench.index", "--measure", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return tuple(map(float, done.stdout.split()))


def _measured(path: Path) -> tuple[float, ...]:
    """Open a store and use it; return the values of `COLUMNS`."""
    began = time.perf_counter()
    store = Store(path)
    opened = time.perf_counter() - began
    names = [b"file%d" % number for number in range(store.inventory.statistics(0).files)]
    inodes = [store.namespace.lookup(ROOT, name) for name in names]
    times = sorted(_lookup(store, random.choice(inodes)) for _ in range(LOOKUPS))
    began = time.perf_counter()
    for inode in inodes:
        store.contents.node(inode)
    attributes = (time.perf_counter() - began) / len(inodes)
    complete_maps = CompleteMaps(store.index)
    began = time.process_time()
    for inode in inodes[:FILES_ADDED_UP]:
        complete_maps.check(inode)
    extents = len(inodes[:FILES_ADDED_UP]) * CHUNKS_OF_FILE
    extent = (time.process_time() - began) / extents
    syncs = []
    for number in range(20):
        node = store.namespace.create(ROOT, b"new%d" % number, 0o100644, NOBODY)
        began = time.perf_counter()
        store.commit()
        syncs.append(time.perf_counter() - began)
        store.namespace.unlink(ROOT, b"new%d" % number)
        list(store.orphans.remove(node.inode))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    index = store.index.file.used() / 1e6
    store.close()
    return (
        opened,
        1e6 * statistics.median(times),
        1e6 * times[len(times) * 99 // 100],
        1e6 * attributes,
        1e6 * extent,
        1e3 * statistics.median(syncs),
        memory,
        index,
    )


def _lookup(store: Store, inode: InodeNumber) -> float:
    """Look up an extent and its chunk, past the cache of extents; return the seconds."""
    at = random.randrange(CHUNKS_OF_FILE) * SIZE + 5
    began = time.perf_counter()
    (extent,) = store.maps.overlapping(inode, at, at + 1)
    store.chunks.record(extent.chunk)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
