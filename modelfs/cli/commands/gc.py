"""`modelfs gc`."""

import os
from dataclasses import asdict
from pathlib import Path

import click

from modelfs.cli import client, params, render
from modelfs.cli.open_store import open_for_reading, open_unmounted
from modelfs.cli.params import PATH
from modelfs.cli.places import find_store
from modelfs.jobs.composed.collect import collect_all, survey
from modelfs.jobs.drive import run
from modelfs.jobs.gc.collector import Collector
from modelfs.jobs.gc.job import OrphanQueue
from modelfs.jobs.hints import all_hints


@click.command()
@click.argument("place", metavar="STORE|MOUNTPOINT", type=PATH)
@click.option("--dry-run", is_flag=True, help="Only show how much would be freed.")
@params.trust
def gc(place: Path, *, dry_run: bool, trust: bool) -> None:
    """Free the disk space of deleted files.

    The daemon of a mounted store does this by itself, within a minute of a removal, and at once
    when a program finds no room. This command is more thorough.
    """
    store = find_store(place)
    with render.progress_bar("collecting") as progress:
        if (daemon := client.connect(store, trust=trust)) is not None:
            with daemon:
                garbage = daemon.ask("gc", progress, dry_run=dry_run)
        elif dry_run:
            with open_for_reading(store, trust=trust) as opened:
                garbage = asdict(survey(opened, Collector(opened)))
        else:
            with open_unmounted(store, trust=trust) as opened:
                collector = Collector(opened, all_hints(opened))
                orphans = OrphanQueue(opened, opened.orphans.inodes())
                threads = os.cpu_count() or 1
                collecting = collect_all(opened, collector, orphans, threads=threads)
                garbage = asdict(run(collecting, opened))
    bases = garbage.get("base_only_chunks", 0)  # a daemon of an older version has no such key
    if not garbage["dead_chunks"] and not garbage["packs"] and not bases:
        click.echo("nothing to collect")
        return
    chunks = render.counted(garbage["dead_chunks"], "unused chunk")
    chunks += f" ({render.human_size(garbage['dead_bytes'])})"
    if bases:
        chunks += f", {render.counted(bases, 'base-only chunk')}"
    packs = f" in {render.counted(garbage['packs'], 'pack')}" if garbage["packs"] else ""
    remove, free = ("would remove", "free") if dry_run else ("removed", "freed")
    about = "about " if bases and dry_run else ""
    size = render.human_size(garbage["pack_bytes"] + garbage.get("base_only_bytes", 0))
    click.echo(f"{remove} {chunks} and {free} {about}{size}{packs}")
