"""Output: sizes, tables, JSON and progress bars. Names are escaped, and never markup."""

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any, Final

import click
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from modelfs.cli.escape import plain
from modelfs.jobs import steps

Json = dict[str, Any]

UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
# Columns of an output that is not a terminal, so that no line is folded.
WIDE: Final = 1000


def human_size(size: float) -> str:
    """Return a size with three digits: 0 B, 999 B, 1.00 KiB, 12.3 MiB, 123 GiB."""
    if abs(size) < 1024:
        return f"{size:.0f} B"
    for unit in UNITS:
        size /= 1024
        if abs(size) < 1023.5 or unit == UNITS[-1]:
            break
    digits = 2 if abs(size) < 9.995 else 1 if abs(size) < 99.95 else 0
    return f"{size:.{digits}f} {unit}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 file, 2,345 files."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def show_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def new_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table; the columns in `right` are aligned right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def add_row(table: Table, *cells: str) -> None:
    """Add a row of plain texts."""
    table.add_row(*(Text(plain(cell)) for cell in cells))


def show_table(table: Table) -> None:
    """Print a table; without spaces at the ends of lines, unless for a terminal.

    On a terminal that is too narrow for its rows, each row is a block of lines: its first cell, and
    then every other cell with the name of its column.
    """
    if not sys.stdout.isatty():
        console = Console(markup=False, highlight=False, emoji=False, width=WIDE)
        with console.capture() as captured:
            console.print(table)
        for line in captured.get().splitlines():
            click.echo(line.rstrip())
        return
    console = Console(markup=False, highlight=False, emoji=False)
    unbounded = console.options.update(width=WIDE)
    if console.measure(table, options=unbounded).maximum > console.width and table.show_header:
        _show_blocks(console, table)
    else:
        console.print(table)


def _show_blocks(console: Console, table: Table) -> None:
    names = [str(column.header) for column in table.columns]
    margin = max(map(len, names)) + 4
    for first, *others in zip(*(column.cells for column in table.columns), strict=True):
        # A name that is longer than the line is left to the terminal, so that it can be copied.
        console.print(first, soft_wrap=True)
        for name, cell in zip(names[1:], others, strict=True):
            if str(cell):
                console.print(Text(f"  {name:{margin - 2}}") + Text(str(cell)), soft_wrap=True)


@contextlib.contextmanager
def progress_bar(activity: str, *, in_bytes: bool = False) -> Iterator[steps.Progress]:
    """Show a progress bar on stderr if that is a terminal; yield the function that advances it."""
    console = Console(stderr=True, markup=False, highlight=False)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True) if in_bytes else MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(activity, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield report
