"""`fsck`."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from modelfs.cli import client, render
from modelfs.cli.failure import EXPECTED, Code, Failure, describe
from modelfs.cli.opening import kept_unmounted
from modelfs.cli.params import PATH
from modelfs.cli.places import find_store
from modelfs.cli.plain import plain
from modelfs.store.check import Finding, FsckReport
from modelfs.store.check import fsck as check_store
from modelfs.store.store import Store

CODES = """\b
Exit codes, as in fsck(8):
  0   sound
  4   damaged
  8   could not check
  16  wrong usage
"""


@click.command(epilog=CODES)
@click.argument("place", metavar="STORE", type=PATH)
@click.option("--data", is_flag=True, help="Read every stored byte, too, and check it.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def fsck(place: Path, *, data: bool, as_json: bool) -> Code:
    """Check that STORE is sound. Nothing is changed.

    It may be mounted meanwhile: its last commit is checked.
    """
    try:
        report = _check(find_store(place), data=data)
    except EXPECTED as exc:
        raise Failure(describe(exc), Code.NOT_CHECKED) from exc
    if as_json:
        render.show_json(_jsonable(report, data=data))
    else:
        _show(report, data=data)
    return Code.DAMAGED if report.findings else Code.OK


def _check(store: Path, *, data: bool) -> FsckReport:
    with (
        _kept(store),
        Store(store, read_only=True) as opened,
        render.progress_bar("checking", in_bytes=data) as progress,
    ):
        return check_store(opened, data=data, progress=progress)


@contextlib.contextmanager
def _kept(store: Path) -> Iterator[None]:
    """Keep the files of the last commit where they are."""
    if (daemon := client.connect(store)) is None:
        with kept_unmounted(store):
            yield
    else:
        with daemon:
            daemon.ask("hold")
            yield


def _jsonable(report: FsckReport, *, data: bool) -> dict[str, Any]:
    return {
        "data": data,
        "files": report.files,
        "chunks": report.chunks,
        "bytes_checked": report.bytes_checked,
        "findings": [each.to_dict() for each in report.findings],
    }


def _show(report: FsckReport, *, data: bool) -> None:
    for finding in report.findings:
        click.echo(line_of(finding))
    seen = f"{render.counted(report.files, 'file')}, {render.counted(report.chunks, 'chunk')}"
    if data:
        seen += f", {render.human_size(report.bytes_checked)} read"
    if report.findings:
        click.echo(f"{render.counted(len(report.findings), 'finding')} in {seen}")
    elif data:
        click.echo(f"sound to the last byte: {seen}")
    else:
        click.echo(f"sound: {seen}; --data reads their content, too")


def line_of(finding: Finding) -> str:
    """Return what is printed of a finding."""
    parts = [f"{finding.severity}: {finding.invariant}: {finding.message}"]
    if finding.files:
        parts.append(f"files: {', '.join(os.fsdecode(file) for file in finding.files)}")
    if finding.tensors:
        parts.append(f"tensors: {', '.join(finding.tensors)}")
    return plain("; ".join(parts))
