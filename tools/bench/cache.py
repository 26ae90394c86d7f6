"""Which eviction policy keeps the right pages when variants of one model are served together?

    tools/run bench.cache [--requests N] [--folder DIR] MODEL...

Stores the given files, optimizes them, and measures the decode time of each chunk. Then replays
requests for whole tensors against the chunk cache with each of its policies, at capacities of a
half, a quarter and an eighth of the decoded bytes of all requests:

    in step    the same tensor of each variant, as an ensemble reads them
    in turn    one variant after the other, from its first tensor to its last
    zipf       random tensors; the n-th file is requested with a frequency of 1/n
    and scans  the same, with a variant from beginning to end now and then

A replay decodes nothing: it advances a clock by the measured times. A hit is a request for a page
in the cache; "saved" is the part of the decode time without a cache that the hits save. The first
tenth of the requests fills the cache and is not measured.
"""

import argparse
import functools
import random
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, cycle, islice
from pathlib import Path
from typing import Final

from modelfs.codecs.base import CodecId
from modelfs.store.chunks.cache import ChunkCache
from modelfs.store.chunks.eviction import POLICIES
from modelfs.store.create import create_store
from modelfs.store.files.namespace import Owner
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ROOT, ChunkId, InodeNumber
from modelfs.store.store import Store
from tests.support.run_jobs import ingest_all, optimize

SHARES: Final = (2, 4, 8)
# Requests between two scans.
SCAN_EVERY: Final = 400


@dataclass(frozen=True, slots=True)
class Item:
    """A page, with the time to make it if its sources are in the cache."""

    key: Hashable
    size: int
    seconds: float
    needed: int
    sources: tuple["Item", ...]

    @property
    def total(self) -> float:
        return self.seconds + sum(source.total for source in self.sources)


Tensor = tuple[Item, ...]
Model = list[Tensor]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="modelfs-bench-") as scratch:
        folder = Path(scratch) / "store"
        create_store(folder)
        with Store(folder) as store:
            inodes = [_stored(store, path, n) for n, path in enumerate(options.models)]
            optimize(store)
        with Store(folder, cache_size=1 << 40) as store:  # an empty cache
            catalogue = Catalogue(store)
            models = [catalogue.model(inode) for inode in inodes]
    print(f"{'requests':9} {'cache':>8}", *(f"{name:>8} hits  saved" for name in POLICIES))
    for name, trace in TRACES.items():
        requests = list(islice(trace(models), options.requests))
        for share in SHARES:
            _show(name, requests, _bytes(requests) // share)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run bench.cache", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("models", metavar="MODEL", type=Path, nargs="+")
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    return parser.parse_args()


# -- the store's pages


def _stored(store: Store, path: Path, number: int) -> InodeNumber:
    name = b"%d" % number
    inode = store.namespace.create(ROOT, name, 0o100644, Owner(0, 0)).inode
    store.writes.write(inode, 0, path.read_bytes())
    ingest_all(store)
    return inode


class Catalogue:
    """The pages of a store, by chunk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tensors = TensorTable(store.index)
        self._items: dict[Hashable, Item] = {}

    def model(self, inode: InodeNumber) -> Model:
        """Return the pages of a file by tensor. Plain chunks have none."""
        spans = self._tensors.spans(inode)
        extents = (self._store.maps.overlapping(inode, span.start, span.stop) for span in spans)
        tensors = [self._pages(extent.chunk for extent in some) for some in extents]
        pages = [tuple({page.key: page for page in tensor}.values()) for tensor in tensors]
        return [tensor for tensor in pages if tensor]

    def _pages(self, chunks: Iterator[ChunkId] | Sequence[ChunkId]) -> Iterator[Item]:
        for chunk in chunks:
            record = self._store.chunks.record(chunk)
            if record.kind is not ChunkKind.PLAIN:
                yield self._item(chunk, record)

    def _item(self, chunk: ChunkId, record: Chunk) -> Item:
        ids = tuple(self._store.chunks.lineage.sources(chunk))
        whole = record.codec is CodecId.TRANSPOSE  # the chunks of such a tensor share a page
        key: Hashable = ids if whole else chunk
        if key not in self._items:
            sources = tuple(self._pages(ids))
            size = record.size
            if whole:
                size = sum(self._store.chunks.record(part).size for part in ids)
            needed = record.refs + record.dependants
            self._items[key] = Item(key, size, self._seconds(chunk, record), needed, sources)
        return self._items[key]

    def _seconds(self, chunk: ChunkId, record: Chunk) -> float:
        # Its sources were measured before, and are in the cache.
        began = time.thread_time()
        self._store.chunk_reader.read(chunk, record)
        return time.thread_time() - began


# -- requests


def _in_step(models: Sequence[Model]) -> Iterator[Tensor]:
    for number in count():
        for model in models:
            yield model[number % len(model)]


def _in_turn(models: Sequence[Model]) -> Iterator[Tensor]:
    return chain.from_iterable(cycle(models))


def _zipf(models: Sequence[Model]) -> Iterator[Tensor]:
    rng = random.Random(1)
    weights = [1 / (n + 1) for n in range(len(models))]
    while True:
        [model] = rng.choices(models, weights)
        yield rng.choice(model)


def _with_scans(models: Sequence[Model]) -> Iterator[Tensor]:
    wanted = _zipf(models)
    for model in cycle(models):
        yield from islice(wanted, SCAN_EVERY)
        yield from model


TRACES: Final[dict[str, Callable[[Sequence[Model]], Iterator[Tensor]]]] = {
    "in step": _in_step,
    "in turn": _in_turn,
    "zipf": _zipf,
    "and scans": _with_scans,
}


def _bytes(requests: Sequence[Tensor]) -> int:
    items = {item.key: item for tensor in requests for item in tensor}
    return sum(item.size for item in items.values())


# -- replay


class Replay:
    """Answers requests from a chunk cache with one policy."""

    def __init__(self, capacity: int, policy: str) -> None:
        self._now = 0.0
        self._cache = ChunkCache(capacity, policy, clock=lambda: self._now)
        self._blank = functools.cache(bytes)  # pages of one size are one object
        self._missed = False

    def run(self, requests: Sequence[Tensor]) -> tuple[float, float]:
        """Return the part of chunks that were hits, and the part of the time that they save."""
        items = [item for tensor in requests for item in tensor]
        warm = len(items) // 10
        for item in items[:warm]:
            self._hits(item)
        self._now = 0.0
        hits = sum(self._hits(item) for item in items[warm:])
        return hits / len(items[warm:]), 1 - self._now / sum(item.total for item in items[warm:])

    def _hits(self, item: Item) -> bool:
        self._missed = False
        self._get(item)
        return not self._missed

    def _get(self, item: Item) -> None:
        def load() -> bytes:
            self._missed = True
            for source in item.sources:
                self._get(source)
            self._now += item.seconds
            page: bytes = self._blank(item.size)
            return page

        self._cache.get(item.key, load, sharers=item.needed, alone=True)


def _show(name: str, requests: Sequence[Tensor], capacity: int) -> None:
    results = [Replay(capacity, policy).run(requests) for policy in POLICIES]
    columns = (f"{hits:13.1%} {saved:6.1%}" for hits, saved in results)
    print(f"{name:9} {capacity / 1e6:5.0f} MB", *columns, flush=True)


if __name__ == "__main__":
    main()
