"""`modelfs warm`."""

from pathlib import Path

import click

from modelfs.cli import client, params, render
from modelfs.cli.failure import Failure
from modelfs.cli.params import PATH
from modelfs.cli.places import files_below


@click.command()
@click.argument("paths", metavar="PATH...", type=PATH, nargs=-1, required=True)
@params.trust
def warm(paths: tuple[Path, ...], *, trust: bool) -> None:
    """Copy stored files to where the kernel itself reads them.

    PATH is a file in a mount, or a folder: then all files below it. They are read as fast as other
    files of the disk, until the room is needed. For mounts with --passthrough and without --limit.
    """
    store, inodes = files_below(paths)
    hot = size = 0
    with render.progress_bar("warming files") as progress:
        for done, inode in enumerate(inodes, 1):
            if (daemon := client.connect(store, trust=trust)) is None:
                raise Failure(f"no daemon serves {store.path}; mount it with --passthrough")
            with daemon:
                result = daemon.ask("warm", inode=inode)
            hot += result["files"]
            size += result["bytes"]
            progress(done, len(inodes))
    click.echo(f"hot: {render.counted(hot, 'file')}, {render.human_size(size)}")
    if cold := len(inodes) - hot:
        click.echo(
            f"not hot: {render.counted(cold, 'file')}, below 1 MiB, larger than the room "
            "for copies beside those of the last minute, not in chunks yet, or open for writing"
        )
