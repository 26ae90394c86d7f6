"""`mkfs`."""

import os
from pathlib import Path
from typing import Final

import click

from modelfs.cli.failure import Failure
from modelfs.cli.params import PATH, size
from modelfs.cli.places import is_store
from modelfs.store.create import CHUNK_SIZE, create_store

CHUNK_SIZE_MIN: Final = 4096
CHUNK_SIZE_MAX: Final = 1 << 30


def _check_chunk_size(ctx: click.Context, param: click.Parameter, value: int) -> int:
    if not CHUNK_SIZE_MIN <= value <= CHUNK_SIZE_MAX or value % CHUNK_SIZE_MIN:
        raise click.BadParameter("a multiple of 4KiB is needed, from 4KiB to 1GiB")
    return value


@click.command()
@click.argument("store", type=PATH)
@click.option(
    "--chunk-size",
    type=size,
    default=str(CHUNK_SIZE),
    callback=_check_chunk_size,
    show_default="1MiB",
    help="Longer tensors are cut into chunks of this size. It cannot be changed later.",
)
def mkfs(store: Path, chunk_size: int) -> None:
    """Make an empty store in the new or empty folder STORE."""
    if is_store(store):
        raise Failure(f"{store} is a modelfs store already; mount it, or name another folder")
    if os.path.lexists(store) and not store.is_dir():
        raise Failure(f"{store} is not a folder; name a new or empty one")
    if not store.absolute().parent.is_dir():
        raise Failure(f"{store.parent} does not exist; `mkdir -p {store.parent}` makes it")
    if store.is_dir() and any(store.iterdir()):
        raise Failure(f"{store} is not empty; name a new or empty folder")
    create_store(store, chunk_size=chunk_size)
    click.echo(f"made a store in {store}; next: modelfs mount {store} MOUNTPOINT")
