"""`gc`."""

from dataclasses import asdict
from pathlib import Path

import click

from modelfs.cli import client, render
from modelfs.cli.open_store import open_unmounted
from modelfs.cli.params import PATH
from modelfs.cli.places import find_store
from modelfs.cli.render import Json
from modelfs.jobs.drive import run
from modelfs.jobs.gc.collector import LIVE_MIN_SHORT, Collector
from modelfs.jobs.gc.job import collect_unmounted
from modelfs.jobs.hints import all_hints
from modelfs.store.store import Store


@click.command()
@click.argument("place", metavar="STORE|MOUNTPOINT", type=PATH)
@click.option("--dry-run", is_flag=True, help="Only tell what there is to collect.")
def gc(place: Path, *, dry_run: bool) -> None:
    """Give the room of what was removed back to the disk.

    A mounted store does this by itself when much has come together.
    """
    store = find_store(place)
    with render.progress_bar("collecting") as progress:
        if (daemon := client.connect(store)) is not None:
            with daemon:
                found = daemon.ask("gc", progress, dry_run=dry_run)
        else:
            found = _survey(store) if dry_run else _collect(store)
    _show(found, dry_run=dry_run)


def _survey(store: Path) -> Json:
    with Store(store, read_only=True) as opened:
        return asdict(Collector(opened).survey(LIVE_MIN_SHORT))


def _collect(store: Path) -> Json:
    with open_unmounted(store) as opened:
        collector = Collector(opened, all_hints(opened))
        return asdict(run(collect_unmounted(opened, collector, LIVE_MIN_SHORT), opened))


def _show(found: Json, *, dry_run: bool) -> None:
    if not found["dead_chunks"] and not found["packs"]:
        click.echo("nothing to collect")
        return
    chunks = render.counted(found["dead_chunks"], "unused chunk")
    packs = render.counted(found["packs"], "pack")
    would = "would remove" if dry_run else "removed"
    free = "free" if dry_run else "freed"
    click.echo(
        f"{would} {chunks} ({render.human_size(found['dead_bytes'])}); "
        f"{free} {render.human_size(found['pack_bytes'])} in {packs}"
    )
