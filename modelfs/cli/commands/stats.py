"""`modelfs stats`."""

from collections.abc import Iterator
from pathlib import Path

import click

from modelfs.cli import client, params, render
from modelfs.cli.open_store import open_for_reading
from modelfs.cli.params import PATH
from modelfs.cli.places import find_store
from modelfs.cli.render import Json


@click.command()
@click.argument("place", metavar="STORE|MOUNTPOINT", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print all numbers as JSON, sizes in bytes.")
@params.trust
def stats(place: Path, *, as_json: bool, trust: bool) -> None:
    """Show the size of a store, and how much space it saves."""
    store = find_store(place)
    if (daemon := client.connect_to_read(store, trust=trust)) is not None:
        with daemon:
            statistics = daemon.ask("stats")
    else:
        with open_for_reading(store, trust=trust) as opened:
            statistics = opened.inventory.statistics().to_dict()
    if as_json:
        render.show_json(statistics)
    elif not statistics["files"] and not statistics["stored_bytes"]:
        size = render.human_size(statistics["disk_bytes"])
        click.echo(f"the store is empty ({size} on disk)")
    else:
        summary = render.new_table("", "")
        summary.show_header = False
        for name, value in _summary(statistics):
            render.add_row(summary, name, value)
        render.show_table(summary)
        if statistics["forms"]:
            click.echo()
            _show_forms(statistics["forms"])


def _show_forms(forms: Json) -> None:
    """Print a table of the forms in which chunks are stored."""
    numbers = ("chunks", "size", "stored", "of size")
    table = render.new_table("form", *numbers, right=numbers)
    for name, form in sorted(forms.items()):
        raw, stored = form["raw_bytes"], form["stored_bytes"]
        sizes = render.human_size(raw), render.human_size(stored), render.percent(stored, raw)
        render.add_row(table, name, f"{form['chunks']:,}", *sizes)
    render.show_table(table)


def _summary(statistics: Json) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each line of the summary."""
    size, counted = render.human_size, render.counted
    logical, stored = statistics["logical_bytes"], statistics["stored_bytes"]
    staged, cache = statistics["staged_bytes"], statistics["cache"]
    yield "files", f"{statistics['files']:,}, {size(logical)}"
    yield "stored", f"{size(stored)} in {counted(statistics['chunks'], 'chunk')}"
    if staged or statistics["pending_files"]:
        pending = counted(statistics["pending_files"], "file")
        yield "staged", f"{size(staged)} in {pending}, not in chunks yet"
    # Lost bytes take no room, and are not saved.
    if 0 < stored + staged < logical and not statistics["lost_bytes"]:
        saved = logical - stored - staged
        times = logical / (stored + staged)
        yield "saved", f"{size(saved)}, {render.percent(saved, logical)}: {times:.1f} times smaller"
    if statistics["base_only_chunks"]:
        bases = counted(statistics["base_only_chunks"], "chunk")
        yield "base only", f"{size(statistics['base_only_bytes'])} in {bases} of deleted files"
    if statistics["files_to_optimize"]:
        files = counted(statistics["files_to_optimize"], "file")
        yield "to optimize", f"{files}: run `modelfs optimize`"
    if statistics["lost_bytes"]:
        size_lost = size(statistics["lost_bytes"])
        yield "lost", f"{size_lost}: `modelfs fsck` lists the affected files"
    yield "shared", f"{size(statistics['shared_bytes'])} saved because files share chunks"
    if hot := statistics.get("hot_files"):  # a daemon of an older version has no such key
        files = counted(hot, "file")
        yield "hot", f"{size(statistics['hot_bytes'])} of copies of {files}, for the kernel to read"
    yield "on disk", f"{size(statistics['disk_bytes'])}, including index and garbage"
    if cache["hits"] or cache["misses"]:
        used = f"{size(cache['bytes'])} of {size(cache['capacity'])}"
        yield "cache", f"{used}, {cache['hits']:,} hits, {cache['misses']:,} misses"
