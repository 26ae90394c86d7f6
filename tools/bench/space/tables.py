"""The figures as tables for a terminal."""

from collections.abc import Iterator, Sequence

from tools.bench.space.classes import Class
from tools.bench.space.ours import Figures, Statistics
from tools.bench.space.peers import WRITABLE, Weighed
from tools.bench.space.variants import Growth

ABSENT = "-"
NOT_YET = "skipped: this modelfs has no `optimize`"


def ours(figures: Figures) -> Iterator[Weighed]:
    """Yield the rows of the store under test; bytes are those of its folder, index included."""
    note = _of_chunks(figures.synced)
    yield Weighed("modelfs, synced", WRITABLE, figures.synced_disk, figures.sync_seconds, note)
    name = "modelfs, optimized"
    if figures.optimized is None:
        yield Weighed(name, WRITABLE, note=NOT_YET)
    else:
        note = f"{_of_chunks(figures.optimized)}; optimize: {figures.optimize_speed:,.0f} MB/s"
        yield Weighed(name, WRITABLE, figures.optimized_disk, figures.optimize_seconds, note)


def _of_chunks(statistics: Statistics) -> str:
    stored, logical = statistics["stored_bytes"], statistics["logical_bytes"]
    return f"chunks: {stored:,}, {logical / stored:.2f} x"


def show_sizes(rows: Sequence[Weighed], total: int) -> None:
    print(f"{'':24} {'bytes':>15} {'smaller':>8} {'in place':>10} {'s':>6}")
    for row in rows:
        stored = ABSENT if row.stored is None else f"{row.stored:,}"
        times = ABSENT if not row.stored else f"{total / row.stored:.2f} x"
        seconds = ABSENT if row.seconds is None else f"{row.seconds:.0f}"
        print(f"{row.name:24} {stored:>15} {times:>8} {row.access:>10} {seconds:>6}  {row.note}")


def show_classes(kinds: Sequence[Class], title: str) -> None:
    print(f"\n{title:24} {'of the files':>15} {'stored':>15}")
    total = Class("all", sum(kind.logical for kind in kinds), sum(kind.stored for kind in kinds))
    for kind in (*kinds, total):
        share = f"{kind.stored / kind.logical:.1%}" if kind.logical else ABSENT
        print(f"{kind.name:24} {kind.logical:>15,} {kind.stored:>15,} {share:>7}")


def show_variants(growths: Sequence[Growth]) -> None:
    print(f"{'family':6} {'file':40} {'kind':18} {'bytes':>12} {'synced':>8} {'small':>8} target")
    for growth in growths:
        size = growth.entry.size
        small = ABSENT if growth.optimized is None else f"{growth.optimized / size:.2%}"
        target = ABSENT if growth.target is None else f"{growth.target} %"
        verdict = "missed" if growth.target is not None and growth.percent > growth.target else ""
        print(
            f"{growth.family:6} {growth.entry.path:40} {growth.entry.kind:18} {size:>12,} "
            f"{growth.synced / size:>8.2%} {small:>8} {target:>6} {verdict}"
        )
