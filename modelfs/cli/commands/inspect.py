"""`modelfs inspect`."""

from contextlib import nullcontext
from pathlib import Path
from typing import Final

import click

from modelfs.cli import client, params, render
from modelfs.cli.escape import plain
from modelfs.cli.open_store import open_for_reading
from modelfs.cli.params import PATH
from modelfs.cli.places import file_of_mount, file_of_store, find_store
from modelfs.cli.render import Json
from modelfs.jobs.inspect.file import report_on, state_of
from modelfs.mount_table import mount_point_of
from modelfs.shell_word import shell_word
from modelfs.store.disk.directory import Directory
from modelfs.store.index.tables import InodeNumber

# How many users or bases of a tensor's chunks a line of the table has room for.
NAMES_SHOWN: Final = 3


@click.command()
@click.argument("file", metavar="FILE", type=PATH)
@click.option("--store", type=PATH, help="FILE is a path in this STORE, which need not be mounted.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@params.trust
def inspect(file: Path, *, store: Path | None, as_json: bool, trust: bool) -> None:
    """Show how a file and its tensors are stored.

    For each tensor: the forms in which its bytes are stored, the tensors that it is derived from,
    and the other files and tensors that share its bytes. FILE is a path in a mount, or in the store
    that --store names.
    """
    if store is None:
        report = _report(*file_of_mount(file), trust=trust)
        path = file.resolve()
        title = f"/{path.relative_to(mount_point_of(path))}"
    else:
        report = _report(find_store(store), file, trust=trust)
        title = report["path"]
    if as_json:
        render.show_json(report)
    else:
        _show(report, title, file if store is None else store)


def _report(folder: Directory, file: Path | InodeNumber, *, trust: bool) -> Json:
    """Return the report on a file of a store: of its daemon, or of its last commit."""
    with client.connect_to_read(folder, trust=trust) or nullcontext() as daemon:
        if daemon is not None and not isinstance(file, Path):
            return daemon.ask("inspect", inode=file)
        with open_for_reading(folder, trust=trust) as store:
            with store.index.rows.pinned():
                inode = file_of_store(store, file) if isinstance(file, Path) else file
                state = None if daemon is not None else state_of(store, inode)
            # Not pinned: it walks over the extents of all files, for seconds in a large store.
            if state is not None:
                return report_on(store, state).to_dict()
        assert daemon is not None
        return daemon.ask("inspect", inode=inode)


def _show(report: Json, title: str, place: Path) -> None:
    """Print a summary, the table of tensors, and the files that need the same bytes.

    Args:
        report: on the file.
        title: the path in the mount by which the file was named.
        place: in the mount, or the store.
    """
    size = render.human_size
    other = "" if title == report["path"] else f" (also {plain(report['path'])})"
    click.echo(f"{plain(title)}{other}: {report['format']}, {size(report['size'])}")
    if staged := report["staged_bytes"]:
        where = place if place.is_dir() else place.absolute().parent
        command = f"modelfs sync {shell_word(where)}"
        click.echo(f"staged: {size(staged)}, not in chunks yet; next: {command}")
    if report["chunks"] or not staged:
        click.echo(f"stored as {_forms(report, report['size'])}: {size(report['stored_bytes'])}")
        own, shared = size(report["own_bytes"]), size(report["shared_bytes"])
        click.echo(f"{own} of that for this file alone, {shared} needed by other files, too")
    if report["tensors"]:
        click.echo()
        _show_tensors(report)
    for heading, key, more in (
        ("shared with", "shared_with", "more_sharers"),
        ("base of", "base_of", "more_base_of"),
    ):
        # The daemon may be of an earlier version, without the second list.
        if not report.get(key):
            continue
        click.echo(f"\n{heading}")
        for user in report[key]:
            click.echo(f"  {plain(user['path'])} ({size(user['bytes'])})")
        if report[more]:
            click.echo("  and others")


def _show_tensors(report: Json) -> None:
    size = render.human_size
    path = report["path"]
    derived = any(tensor["derived_from"] for tensor in report["tensors"])
    tensors = render.new_table(
        *("tensor", "dtype", "shape", "size", "stored as", "stored"),
        *(["derived from"] if derived else []),
        "shared with",
        right=("size", "stored"),
    )
    for tensor in report["tensors"]:
        name = tensor["name"]
        sharers = [_sharer(sharer, name, path) for sharer in tensor["shared_with"]]
        bases = [
            "a deleted tensor, kept as a base"
            if base["path"] is None
            else _sharer(base, name, path)
            for base in tensor["derived_from"]
        ]
        render.add_row(
            tensors,
            name,
            tensor["dtype"],
            " x ".join(map(str, tensor["shape"])) or "scalar",
            size(tensor["bytes"]),
            _forms(tensor, tensor["bytes"]),
            size(tensor["stored_bytes"]),
            *([_listed(bases)] if derived else []),
            _listed(sharers, more=tensor["more_sharers"]),
        )
    render.show_table(tensors)


def _forms(of: Json, whole: int) -> str:
    """Return the forms of a file or tensor, with their shares if there are several."""
    forms = of["forms"]
    if len(forms) == 1:
        return str(forms[0]["form"])
    largest = sorted(forms, key=lambda form: -form["bytes"])
    parts = (f"{form['form']} {render.percent(form['bytes'], whole)}" for form in largest)
    return ", ".join(parts) or "nothing"


def _listed(names: list[str], *, more: bool = False) -> str:
    """Return the first names, and how many are left out; `more` if the list is not complete."""
    left = len(names) - NAMES_SHOWN
    if more:
        names[NAMES_SHOWN:] = ["and others"]
    elif left > 0:
        names[NAMES_SHOWN:] = [f"and {left} more"]
    return ", ".join(names)


def _sharer(sharer: Json, tensor: str, path: str) -> str:
    """Return a file, with its tensor if that has another name than `tensor`."""
    place = "this file" if sharer["path"] == path else sharer["path"]
    if sharer["tensor"] is None:
        return f"{place}, outside of tensors" if place == "this file" else str(place)
    return str(place) if sharer["tensor"] == tensor else f"{place}: {sharer['tensor']}"
