"""Jobs, run to their end on a store that a test has open."""

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial

from modelfs.jobs.composed.collect import collect_all
from modelfs.jobs.composed.optimize import OptimizeRun
from modelfs.jobs.defrag.job import DefragRun
from modelfs.jobs.drive import run, run_and_commit
from modelfs.jobs.gc.collector import LIVE_MIN, Collector, Garbage
from modelfs.jobs.gc.job import OrphanQueue
from modelfs.jobs.gc.job import collect as collect_job
from modelfs.jobs.hints import all_hints
from modelfs.jobs.ingest.job import Ingest
from modelfs.jobs.ingest.job import ingest_all as ingest_all_job
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.job import Optimizer
from modelfs.jobs.scrub.job import scrub_next
from modelfs.jobs.scrub.scrubber import CheckedRange, Scrubber
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store


def drain(slices: Iterable[object]) -> None:
    """Run sliced work to its end."""
    deque(slices, maxlen=0)


def ingest_file(store: Store, inode: InodeNumber, *, complete: bool = True) -> None:
    """Put a file's staged content into chunks."""
    run(Ingest(store).ingest([inode], complete=complete), store)


def ingest_all(store: Store) -> None:
    """Put all staged content into chunks, and commit."""
    run(ingest_all_job(store), store)


def collector_of(store: Store) -> Collector:
    return Collector(store, all_hints(store))


def collect(store: Store, live_min: float = LIVE_MIN) -> int:
    """Collect all garbage, and return the bytes of packs deleted."""
    before = {pack: row.stop for pack, row in store.reclaimer.packs()}
    collect_with(store, collector_of(store), live_min)
    after = {pack for pack, _ in store.reclaimer.packs()}
    return sum(stop for pack, stop in before.items() if pack not in after)


def collect_with(store: Store, collector: Collector, live_min: float = LIVE_MIN) -> Garbage:
    """Collect all garbage with a collector, and return it."""
    orphans = OrphanQueue(store, store.orphans.inodes())
    return run(collect_all(store, collector, orphans, live_min, threads=2), store)


def collect_dead(store: Store, live_min: float = LIVE_MIN) -> None:
    """Collect garbage, and leave the chunks that only derived ones need."""
    run(OrphanQueue(store, store.orphans.inodes()).remove(), store)
    run(collect_job(store, collector_of(store), live_min), store)


def optimize(
    store: Store,
    progress: Callable[[int, int], None] | None = None,
    *,
    depth: int | None = None,
    include_optimized: bool = False,
) -> Backlog:
    """Optimize every chunk, bring scattered files together, and commit."""
    backlog = Backlog(store)
    backlog.begin(depth, include_optimized=include_optimized)
    optimizing = OptimizeRun(store, backlog, collector_of(store)).to_end(2, progress)
    run_and_commit(optimizing, store)
    return backlog


def optimize_batches(store: Store, backlog: Backlog) -> None:
    """Optimize every chunk, and leave the files where they are."""
    with closing(Optimizer(store, backlog, 2)) as optimizer:
        while run(optimizer.optimize_batch(), store) is not None:
            pass


def defragment(store: Store, progress: Callable[[int, int], None] | None = None) -> None:
    """Bring the chunks of scattered files together, and commit."""
    defrag = DefragRun(store, partial(collect_job, store, collector_of(store)))
    while run(defrag.copy_next(), store):
        if progress is not None:
            progress(defrag.done, defrag.total)


def scrub(store: Store, ranges: int = 1 << 30) -> list[CheckedRange]:
    """Check up to `ranges` ranges, and return them."""
    scrubber, done = Scrubber(store), list[CheckedRange]()
    while len(done) < ranges and (checked := run(scrub_next(scrubber), store)) is not None:
        done.append(checked)
    return done
