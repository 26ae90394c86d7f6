"""`modelfs mkfs`."""

from pathlib import Path

import click

from modelfs.cli.failure import Failure
from modelfs.cli.params import PATH, chunk_size
from modelfs.cli.places import is_store
from modelfs.errors import StoreNotTrusted
from modelfs.shell_word import shell_word
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

    STORE is a new folder, or an empty one of your own. Only its owner can read it.
    """
    if is_store(store):
        raise Failure(f"{store} is a modelfs store already; mount it, or name another folder")
    if not (parent := store.absolute().parent).is_dir():
        raise Failure(f"{parent} does not exist; create it with: mkdir -p {shell_word(parent)}")
    try:
        create_store(store, chunk_size=size)
    except StoreNotTrusted as exc:
        raise Failure(f"{exc}; name a new folder") from exc
    click.echo(f"created the store {store}; next: modelfs mount {shell_word(store)} MOUNTPOINT")
