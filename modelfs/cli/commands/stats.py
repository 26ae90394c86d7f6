"""`stats`."""

from collections.abc import Iterator
from pathlib import Path

import click

from modelfs.cli import client, render
from modelfs.cli.params import PATH
from modelfs.cli.places import find_store
from modelfs.cli.render import Json
from modelfs.store.store import Store


@click.command()
@click.argument("place", metavar="STORE|MOUNTPOINT", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print numbers, in bytes, as JSON.")
def stats(place: Path, *, as_json: bool) -> None:
    """Tell what is stored, and what that saves."""
    found = _statistics(find_store(place))
    if as_json:
        render.show_json(found)
    else:
        _show_statistics(found)


def _statistics(store: Path) -> Json:
    if (daemon := client.connect(store)) is not None:
        with daemon:
            return daemon.ask("stats")
    with Store(store, read_only=True) as opened:
        return opened.statistics().to_dict()


def _show_statistics(found: Json) -> None:
    size = render.human_size
    if not found["files"] and not found["stored_bytes"]:
        click.echo(f"the store is empty ({size(found['disk_bytes'])} on disk)")
        return
    summary = render.table("", "")
    summary.show_header = False
    for name, value in _summary(found):
        render.add(summary, name, value)
    render.show(summary)
    forms = render.table(
        "form", "chunks", "size", "stored", "of size", right=("chunks", "size", "stored", "of size")
    )
    for name, form in sorted(found["forms"].items()):
        raw, stored = form["raw_bytes"], form["stored_bytes"]
        share = render.percent(stored, raw)
        render.add(forms, name, f"{form['chunks']:,}", size(raw), size(stored), share)
    if found["forms"]:
        click.echo()
        render.show(forms)


def _summary(found: Json) -> Iterator[tuple[str, str]]:
    size = render.human_size
    logical, stored = found["logical_bytes"], found["stored_bytes"]
    staged, cache = found["staged_bytes"], found["cache"]
    yield "files", f"{found['files']:,}, {size(logical)}"
    yield "stored", f"{size(stored)} in {render.counted(found['chunks'], 'chunk')}"
    if staged or found["pending_files"]:
        waiting = render.counted(found["pending_files"], "file")
        yield "staged", f"{size(staged)}, {waiting} not taken in yet"
    if 0 < stored + staged < logical:
        saved = logical - stored - staged
        times = logical / (stored + staged)
        yield "saved", f"{size(saved)}, {render.percent(saved, logical)}: {times:.1f} times smaller"
    if found["base_only_chunks"]:
        bases = render.counted(found["base_only_chunks"], "chunk")
        yield "base only", f"{size(found['base_only_bytes'])} of that, {bases} that no file uses"
    if found["files_to_optimize"]:
        files = render.counted(found["files_to_optimize"], "file")
        yield "to optimize", f"{files}: run `modelfs optimize`"
    if found["lost_chunks"]:
        lost = render.counted(found["lost_chunks"], "chunk")
        yield "lost", f"{size(found['lost_bytes'])} in {lost}: `modelfs fsck` tells whom it hurts"
    yield "shared", f"{size(found['shared_bytes'])} that are stored for more than one use"
    yield "on disk", f"{size(found['disk_bytes'])}, index and garbage included"
    if cache["hits"] or cache["misses"]:
        room = f"{size(cache['bytes'])} of {size(cache['capacity'])}"
        yield "cache", f"{room}, {cache['hits']:,} hits, {cache['misses']:,} misses"
