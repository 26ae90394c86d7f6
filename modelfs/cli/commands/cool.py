"""`modelfs cool`."""

from pathlib import Path

import click

from modelfs.cli import client, params, render
from modelfs.cli.params import PATH
from modelfs.cli.places import files_below


@click.command()
@click.argument("paths", metavar="PATH...", type=PATH, nargs=-1, required=True)
@params.trust
def cool(paths: tuple[Path, ...], *, trust: bool) -> None:
    """Remove the copies of stored files that the kernel reads.

    PATH is a file in a mount, or a folder: then all files below it. A copy that programs have open
    or mapped stays.
    """
    store, inodes = files_below(paths)
    cooled = 0
    for inode in inodes:
        if (daemon := client.connect(store, trust=trust)) is not None:
            with daemon:
                cooled += daemon.ask("cool", inode=inode)["files"]
    click.echo(f"no more hot: {render.counted(cooled, 'file')}")
