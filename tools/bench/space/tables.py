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


def show_classes(found: Sequence[Class], title: str) -> None:
    print(f"\n{title:24} {'of the files':>15} {'stored':>15}")
    total = Class("all", sum(each.logical for each in found), sum(each.stored for each in found))
    for each in (*found, total):
        share = f"{each.stored / each.logical:.1%}" if each.logical else ABSENT
        print(f"{each.name:24} {each.logical:>15,} {each.stored:>15,} {share:>7}")


def show_variants(found: Sequence[Growth]) -> None:
    print(f"{'family':6} {'file':40} {'kind':18} {'bytes':>12} {'synced':>8} {'small':>8} target")
    for each in found:
        size = each.entry.size
        small = ABSENT if each.optimized is None else f"{each.optimized / size:.2%}"
        target = ABSENT if each.target is None else f"{each.target} %"
        verdict = "missed" if each.target is not None and each.percent > each.target else ""
        print(
            f"{each.family:6} {each.entry.path:40} {each.entry.kind:18} {size:>12,} "
            f"{each.synced / size:>8.2%} {small:>8} {target:>6} {verdict}"
        )
