"""`sync` and `gc`: through the daemon of a mounted store, or on the store itself."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from modelfs.cli import client, render
from modelfs.cli.open_store import open_unmounted
from modelfs.cli.params import PATH
from modelfs.cli.places import find_store
from modelfs.jobs.gc.collector import LIVE_MIN_SHORT
from modelfs.store.store import Store


@click.command()
@click.argument("place", metavar="STORE|MOUNTPOINT", type=PATH)
def sync(place: Path) -> None:
    """Make all that was written durable, in chunks.

    Returns when that is done. What is still being written to is made durable as far as it is.
    """
    store = find_store(place)
    with render.progress_bar("taking files in") as progress:
        if (daemon := client.connect(store)) is not None:
            with daemon:
                daemon.ask("sync", progress)
        else:
            with open_unmounted(store) as opened:
                opened.ingest_all()


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
    _tell(found, dry_run=dry_run)


def _survey(store: Path) -> dict[str, Any]:
    with Store(store, read_only=True) as opened:
        return asdict(opened.collector.survey(LIVE_MIN_SHORT))


def _collect(store: Path) -> dict[str, Any]:
    with open_unmounted(store) as opened:
        for inode in opened.orphans.orphans():
            while not opened.orphans.reap(inode):
                pass
        found = asdict(opened.collector.survey(LIVE_MIN_SHORT))
        opened.collect(LIVE_MIN_SHORT)
        return found


def _tell(found: dict[str, Any], *, dry_run: bool) -> None:
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
