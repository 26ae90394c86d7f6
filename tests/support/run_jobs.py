"""Jobs, run to their end on a store that a test has open."""

from collections import deque
from collections.abc import Callable, Iterable

from modelfs.jobs.defrag.job import defragment as defragment_job
from modelfs.jobs.drive import run, run_and_commit
from modelfs.jobs.gc.collector import LIVE_MIN, Collector
from modelfs.jobs.gc.job import collect_unmounted
from modelfs.jobs.hints import all_hints
from modelfs.jobs.ingest.job import Ingest
from modelfs.jobs.ingest.job import ingest_all as ingest_all_job
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.job import optimize as optimize_job
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
    run(collect_unmounted(store, collector_of(store), live_min), store)
    after = {pack for pack, _ in store.reclaimer.packs()}
    return sum(stop for pack, stop in before.items() if pack not in after)


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
    run_and_commit(optimize_job(store, backlog, progress), store)
    defragment(store, progress)
    return backlog


def defragment(store: Store, progress: Callable[[int, int], None] | None = None) -> None:
    """Bring the chunks of scattered files together, and commit."""
    run(
        defragment_job(store, progress, lambda: collect_unmounted(store, collector_of(store))),
        store,
    )


def scrub(store: Store, ranges: int = 1 << 30) -> list[CheckedRange]:
    """Check up to `ranges` ranges, and return them."""
    scrubber, done = Scrubber(store), list[CheckedRange]()
    while len(done) < ranges and (checked := run(scrub_next(scrubber), store)) is not None:
        done.append(checked)
    return done
