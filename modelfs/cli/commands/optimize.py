"""`optimize`."""

from pathlib import Path

import click

from modelfs.cli import client, render
from modelfs.cli.open_store import open_unmounted
from modelfs.cli.params import PATH
from modelfs.cli.places import find_store
from modelfs.cli.render import Json
from modelfs.jobs.defrag.job import defragment
from modelfs.jobs.drive import run, run_and_commit
from modelfs.jobs.gc.collector import LIVE_MIN_SMALL, Collector
from modelfs.jobs.gc.job import collect_unmounted
from modelfs.jobs.hints import all_hints
from modelfs.jobs.ingest.job import ingest_all
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.job import optimize as optimize_store
from modelfs.jobs.optimize.job import optimize_report
from modelfs.jobs.steps import Commit, Job
from modelfs.store.chunks.lineage import CHAIN_MAX
from modelfs.store.store import Store


@click.command()
@click.argument("place", metavar="STORE|MOUNTPOINT", type=PATH)
@click.option(
    "--depth",
    type=click.IntRange(1, CHAIN_MAX),
    metavar="N",
    help="How many deltas may have to be decoded for a tensor. 1 unless it was set before.",
)
@click.option("--again", is_flag=True, help="Look at what was optimized before, too.")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def optimize(*, place: Path, depth: int | None, again: bool, as_json: bool) -> None:
    """Give every tensor its smallest exact form.

    Nothing that is read changes by it. Stopped by Ctrl-C, an unmount or a crash, it goes on where
    it was. A mounted store does this by itself when nobody has used it for a minute.
    """
    store = find_store(place)
    with render.progress_bar("optimizing", in_bytes=True) as progress:
        if (daemon := client.connect(store)) is not None:
            with daemon:
                told = daemon.ask("optimize", progress, **_given(depth), again=again)
        else:
            told = _optimize(store, progress, depth, include_optimized=again)
    if as_json:
        render.show_json(told)
    else:
        click.echo(_line(told))
    if told["damaged"]:
        damaged = render.counted(told["damaged"], "chunk")
        message = f"{damaged} could not be read, and stay as they are; `modelfs scrub` names them"
        click.echo(f"modelfs: {message}", err=True)


def _optimize(
    store: Path, progress: client.Progress, depth: int | None, *, include_optimized: bool
) -> Json:
    with open_unmounted(store) as opened:
        run(ingest_all(opened), opened)
        before = opened.statistics(0)
        backlog = Backlog(opened)
        backlog.begin(depth, include_optimized=include_optimized)
        run_and_commit(_make_small(opened, backlog, progress), opened)
        return optimize_report(opened, backlog, before)


def _make_small(store: Store, backlog: Backlog, progress: client.Progress) -> Job[None]:
    total = backlog.status().bytes
    collector = Collector(store, all_hints(store))
    yield from optimize_store(store, backlog, progress)
    yield Commit()  # deletes the packs that became empty
    yield from defragment(
        store,
        lambda done, more: progress(total + done, total + more),
        make_room=lambda: collect_unmounted(store, collector),
    )
    yield from collect_unmounted(store, collector, LIVE_MIN_SMALL)


def _given(depth: int | None) -> dict[str, int]:
    return {} if depth is None else {"depth": depth}


def _line(told: Json) -> str:
    before, after = told["stored_before"], told["stored_after"]
    size = render.human_size(after)
    if before == after:
        return f"nothing got smaller: {size} stored"
    return f"{render.human_size(before)} before, {size} now ({render.percent(after, before)})"
