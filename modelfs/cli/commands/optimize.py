"""`modelfs optimize`."""

from pathlib import Path

import click

from modelfs.cli import client, params, render
from modelfs.cli.failure import Failure, interruptible
from modelfs.cli.open_store import open_unmounted
from modelfs.cli.params import PATH, Number
from modelfs.cli.places import find_store
from modelfs.jobs.composed.ingest import ingest_unmounted
from modelfs.jobs.composed.optimize import optimize_all
from modelfs.jobs.drive import run, run_and_commit
from modelfs.jobs.gc.collector import Collector
from modelfs.jobs.hints import all_hints
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.job import optimize_report
from modelfs.jobs.optimize.room import OptimizeRoom, room_for
from modelfs.store.chunks.lineage import CHAIN_MAX


@click.command()
@click.argument("place", metavar="STORE|MOUNTPOINT", type=PATH)
@click.option(
    "--depth",
    type=Number(1, CHAIN_MAX),
    metavar="N",
    help="How many deltas may follow one another: more make the store smaller and reads slower. "
    "It is kept for later runs; a new store has 1.",
)
@click.option("--again", is_flag=True, help="Try tensors that are optimized already, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@params.trust
def optimize(*, place: Path, depth: int | None, again: bool, as_json: bool, trust: bool) -> None:
    """Compress tensors, each to its smallest exact form.

    A tensor may become a delta to a similar one, for example. Files keep every byte. A run that is
    interrupted is continued by the next. The daemon of a mounted store does this by itself when
    the files were not used for a minute.
    """
    store = find_store(place)
    if (daemon := client.connect(store, trust=trust)) is not None:
        with daemon:
            _show_room(OptimizeRoom(**daemon.ask("optimize-room")))
    command = params.next_command("optimize", place, trust=trust)
    resumed = f"the tensors so far stay optimized; continue with: {command}"
    with interruptible(resumed), render.progress_bar("optimizing", in_bytes=True) as progress:
        if (daemon := client.connect(store, trust=trust)) is not None:
            arguments: dict[str, bool | int] = {"again": again}
            if depth is not None:
                arguments["depth"] = depth
            with daemon:
                report = daemon.ask("optimize", progress, **arguments)
        else:
            with open_unmounted(store, trust=trust) as opened:
                run(ingest_unmounted(opened), opened)
                before = opened.inventory.statistics(0)
                backlog = Backlog(opened)
                backlog.begin(depth, include_optimized=again)
                _show_room(room_for(opened, backlog.status().bytes))
                collector = Collector(opened, all_hints(opened))
                run_and_commit(optimize_all(opened, backlog, collector, progress), opened)
                report = optimize_report(before, opened.inventory.statistics(0), backlog.damaged)
    stored, stored_before = report["stored_after"], report["stored_before"]
    size = render.human_size(stored)
    if as_json:
        render.show_json(report)
    elif stored == stored_before:
        click.echo(f"nothing got smaller: {size} stored")
    else:
        share = render.percent(stored, stored_before)
        click.echo(f"{render.human_size(stored_before)} before, {size} now ({share})")
    if report["damaged"]:
        command = params.next_command("scrub", place, trust=trust)
        click.echo(
            f"modelfs: skipped damaged chunks and tensors ({report['damaged']}); "
            f"list them, and their files, with: {command}",
            err=True,
        )


def _show_room(room: OptimizeRoom) -> None:
    """Print a note if a run goes on with less room than it would take.

    Raises:
        Failure: no run can do anything with the room that there is.
    """
    free = render.human_size(room.free)
    if room.free < room.least:
        least = render.human_size(room.least)
        raise Failure(
            f"no space left to optimize: it needs {least} at least, and {free} are free "
            "with the reserve of the store, which df(1) leaves out; "
            "remove files, or mount with a larger --limit"
        )
    if room.free < room.needed:
        needed = render.human_size(room.needed)
        click.echo(
            f"optimizing in small portions: {free} are free with the reserve of the store, which "
            f"df(1) leaves out; in the usual portions it would take up to {needed}",
            err=True,
        )
