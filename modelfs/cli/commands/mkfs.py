"""`modelfs mkfs`."""

import os
from pathlib import Path

import click

from modelfs.cli.failure import Failure
from modelfs.cli.params import PATH, chunk_size
from modelfs.cli.places import is_store
from modelfs.store.create import CHUNK_SIZE, create_store


@click.command()
@click.argument("store", type=PATH)
@click.option(
    "--chunk-size",
    "size",
    type=chunk_size,
    default=f"{CHUNK_SIZE >> 20}MiB",
    metavar="SIZE",
    show_default=True,
    help="Largest size of a chunk; longer tensors are cut. It cannot be changed later.",
)
def mkfs(store: Path, size: int) -> None:
    """Create an empty store.

    STORE is a new folder or an empty one. Only its owner can read it.
    """
    if is_store(store):
        raise Failure(f"{store} is a modelfs store already; mount it, or name another folder")
    if os.path.lexists(store) and not store.is_dir():
        raise Failure(f"{store} is not a folder; name a new or empty one")
    if not (parent := store.absolute().parent).is_dir():
        raise Failure(f"{parent} does not exist; create it with: mkdir -p {parent}")
    if store.is_dir() and any(store.iterdir()):
        raise Failure(f"{store} is not empty; name a new or empty folder")
    create_store(store, chunk_size=size)
    click.echo(f"created the store {store}; next: modelfs mount {store} MOUNTPOINT")
