"""`inspect`."""

import os
import stat
from pathlib import Path
from typing import Final

import click

from modelfs.cli import client, render
from modelfs.cli.escape import plain
from modelfs.cli.failure import Failure
from modelfs.cli.params import PATH
from modelfs.cli.places import find_store, is_store, store_of_mount
from modelfs.cli.render import Json
from modelfs.errors import NotADirectory, NotFound
from modelfs.jobs.inspect.file import inspect as inspect_file
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store

# How many users of a tensor's chunks a line of the table has room for.
SHARERS_SHOWN: Final = 3


@click.command()
@click.argument("file", metavar="FILE", type=PATH)
@click.option("--store", type=PATH, help="FILE is a path in this STORE, which need not be mounted.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def inspect(file: Path, *, store: Path | None, as_json: bool) -> None:
    """Tell how a file's tensors are stored and shared.

    For each tensor: in which forms its bytes are stored, what they are derived from, and which
    other files and tensors use the same ones. FILE is a path in a mount, or in the store that
    --store names.
    """
    report = _inspect_mounted(file) if store is None else _inspect_stored(find_store(store), file)
    if as_json:
        render.show_json(report)
    else:
        _show_report(report)


def _inspect_mounted(file: Path) -> Json:
    status = _status(file)
    if (store := store_of_mount(file)) is None:
        raise Failure(f"{file} is not in a modelfs mount; with --store STORE, it need not be")
    if stat.S_ISDIR(status.st_mode):
        raise Failure(f"{file} is a folder; name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise Failure(f"{file} is no regular file; it has no content to inspect")
    return _report(store, InodeNumber(status.st_ino))


def _status(file: Path) -> os.stat_result:
    is_store(file)  # tells of a dead mount
    try:
        return file.stat()
    except FileNotFoundError as exc:
        raise Failure(f"{file} does not exist; name a file in a mount") from exc


def _inspect_stored(store: Path, file: Path) -> Json:
    with Store(store, read_only=True) as opened:
        try:
            inode = _find(opened, file)
        except (NotFound, NotADirectory) as exc:
            raise Failure(
                f"{file} is not in the last commit of {store}; "
                "paths begin at the top of the store, and symbolic links are not followed"
            ) from exc
    return _report(store, inode)


def _find(opened: Store, file: Path) -> InodeNumber:
    inode = ROOT
    for part in file.parts:
        if part != "/":
            inode = opened.namespace.lookup(inode, os.fsencode(part))
    return inode


def _report(store: Path, inode: InodeNumber) -> Json:
    if (daemon := client.connect(store)) is not None:
        with daemon:
            return daemon.ask("inspect", inode=inode)
    with Store(store, read_only=True) as opened, opened.index.pinned():
        return inspect_file(opened, inode).to_dict()


def _show_report(report: Json) -> None:
    size = render.human_size
    click.echo(f"{plain(report['path'])}: {report['format']}, {size(report['size'])}")
    click.echo(f"stored as {_forms(report, report['size'])}: {size(report['stored_bytes'])}")
    own, shared = size(report["own_bytes"]), size(report["shared_bytes"])
    click.echo(f"{own} of that for this file alone, {shared} with others")
    if report["tensors"]:
        click.echo()
        _show_tensors(report)
    if report["shared_with"]:
        click.echo("\nshared with")
        for sharer in report["shared_with"]:
            click.echo(f"  {plain(sharer['path'])} ({size(sharer['bytes'])})")
        if report["more_sharers"]:
            click.echo("  and others")


def _show_tensors(report: Json) -> None:
    size = render.human_size
    bases = any(tensor["derived_from"] for tensor in report["tensors"])
    tensors = render.table(
        *("tensor", "dtype", "shape", "size", "stored as", "stored"),
        *(["from"] if bases else []),
        "shared with",
        right=("size", "stored"),
    )
    for tensor in report["tensors"]:
        render.add(
            tensors,
            tensor["name"],
            tensor["dtype"],
            " x ".join(map(str, tensor["shape"])) or "scalar",
            size(tensor["bytes"]),
            _forms(tensor, tensor["bytes"]),
            size(tensor["stored_bytes"]),
            *([_bases(tensor, report["path"])] if bases else []),
            _sharers(tensor, report["path"]),
        )
    render.show(tensors)


def _forms(of: Json, whole: int) -> str:
    forms = of["forms"]
    if len(forms) == 1:
        return str(forms[0]["form"])
    parts = (f"{form['form']} {render.percent(form['bytes'], whole)}" for form in forms)
    return ", ".join(parts) or "nothing"


def _sharers(tensor: Json, path: str) -> str:
    names = [_sharer(each, tensor["name"], path) for each in tensor["shared_with"]]
    more = len(names) - SHARERS_SHOWN
    if tensor["more_sharers"]:
        names[SHARERS_SHOWN:] = ["and others"]
    elif more > 0:
        names[SHARERS_SHOWN:] = [f"and {more} more"]
    return ", ".join(names)


def _bases(tensor: Json, path: str) -> str:
    names = [
        "held only as a base" if base["path"] is None else _sharer(base, tensor["name"], path)
        for base in tensor["derived_from"]
    ]
    if len(names) > SHARERS_SHOWN:
        names[SHARERS_SHOWN:] = [f"and {len(names) - SHARERS_SHOWN} more"]
    return ", ".join(names)


def _sharer(sharer: Json, tensor: str, path: str) -> str:
    place = "this file" if sharer["path"] == path else sharer["path"]
    if sharer["tensor"] is None:
        return f"{place}, outside of tensors" if place == "this file" else str(place)
    return str(place) if sharer["tensor"] == tensor else f"{place}: {sharer['tensor']}"
