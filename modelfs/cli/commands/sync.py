"""`modelfs sync`."""

from pathlib import Path

import click

from modelfs.cli import client, params, render
from modelfs.cli.open_store import open_unmounted
from modelfs.cli.params import PATH
from modelfs.cli.places import find_store
from modelfs.jobs.composed.ingest import ingest_unmounted
from modelfs.jobs.drive import run


@click.command()
@click.argument("place", metavar="STORE|MOUNTPOINT", type=PATH)
@params.trust
def sync(place: Path, *, trust: bool) -> None:
    """Write everything to the disk, and store it in chunks.

    Returns when that is done. Of files that programs still write to, it includes the bytes written
    so far.
    """
    store = find_store(place)
    with render.progress_bar("storing files") as progress:
        if (daemon := client.connect(store, trust=trust)) is not None:
            with daemon:
                daemon.ask("sync", progress)
        else:
            with open_unmounted(store, trust=trust) as opened:
                run(ingest_unmounted(opened), opened)
