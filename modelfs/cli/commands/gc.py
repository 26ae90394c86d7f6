"""`modelfs gc`."""

from dataclasses import asdict
from pathlib import Path

import click

from modelfs.cli import client, params, render
from modelfs.cli.open_store import open_unmounted
from modelfs.cli.params import PATH
from modelfs.cli.places import find_store
from modelfs.jobs.drive import run
from modelfs.jobs.gc.collector import LIVE_MIN_SMALL, Collector
from modelfs.jobs.gc.job import collect_unmounted
from modelfs.jobs.hints import all_hints
from modelfs.store.store import Store


@click.command()
@click.argument("place", metavar="STORE|MOUNTPOINT", type=PATH)
@click.option("--dry-run", is_flag=True, help="Only show how much would be freed.")
@params.trust
def gc(place: Path, *, dry_run: bool, trust: bool) -> None:
    """Free the disk space of deleted files.

    The daemon of a mounted store does this by itself, when there is much to free or the disk is
    nearly full.
    """
    store = find_store(place)
    with render.progress_bar("collecting") as progress:
        if (daemon := client.connect(store, trust=trust)) is not None:
            with daemon:
                garbage = daemon.ask("gc", progress, dry_run=dry_run)
        elif dry_run:
            with Store(store, read_only=True, trust=trust) as opened:
                collector = Collector(opened)
                collector.measure(LIVE_MIN_SMALL)
                garbage = asdict(collector.survey(LIVE_MIN_SMALL))
        else:
            with open_unmounted(store, trust=trust) as opened:
                collector = Collector(opened, all_hints(opened))
                collection = collect_unmounted(opened, collector, LIVE_MIN_SMALL)
                garbage = asdict(run(collection, opened))
    if not garbage["dead_chunks"] and not garbage["packs"]:
        click.echo("nothing to collect")
        return
    chunks = render.counted(garbage["dead_chunks"], "unused chunk")
    packs = render.counted(garbage["packs"], "pack")
    remove, free = ("would remove", "free") if dry_run else ("removed", "freed")
    click.echo(
        f"{remove} {chunks} ({render.human_size(garbage['dead_bytes'])}) and "
        f"{free} {render.human_size(garbage['pack_bytes'])} in {packs}"
    )
