"""`fsck`."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from modelfs.cli import client, render
from modelfs.cli.failure import EXPECTED, Code, Failure, describe
from modelfs.cli.findings import line_of, with_names
from modelfs.cli.open_store import kept_unmounted
from modelfs.cli.params import PATH
from modelfs.cli.places import find_store, mounts, store_of_mount
from modelfs.errors import CorruptIndex, IndexLost
from modelfs.jobs.check.fsck import FsckReport
from modelfs.jobs.check.fsck import fsck as check_store
from modelfs.jobs.check.meta_pages import check_meta_pages
from modelfs.jobs.repair.quarantine import Quarantine
from modelfs.jobs.repair.run import Outcome, RepairReport
from modelfs.jobs.repair.run import repair as repair_store
from modelfs.store.store import Store

CODES = """\b
Exit codes, as in fsck(8):
  0   sound
  1   damage was found, and all of it repaired
  4   damaged
  8   could not check
  16  wrong usage
"""


@click.command(epilog=CODES)
@click.argument("place", metavar="STORE", type=PATH)
@click.option("--data", is_flag=True, help="Read every stored byte, too, and check it.")
@click.option("--repair", is_flag=True, help="Repair what is damaged. STORE must not be mounted.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def fsck(place: Path, *, data: bool, repair: bool, as_json: bool) -> Code:
    """Check that STORE is sound.

    Without --repair nothing is changed, and it may be mounted meanwhile: its last commit is
    checked. With it, all that can be mended is. What is lost is named, and stays unreadable until
    a good copy of the file is written; what was left of it is kept in STORE/quarantine.
    """
    try:
        store = find_store(place)
        if repair:
            return _repair(store, data=data, as_json=as_json)
        report = _check(store, data=data)
    except EXPECTED as exc:
        raise Failure(_explained(exc, repair=repair), Code.NOT_CHECKED) from exc
    if as_json:
        render.show_json(_jsonable(report, data=data))
    else:
        _show(report, data=data)
        _show_quarantine(store)
    return Code.DAMAGED if report.findings else Code.OK


def _explained(exc: Exception, *, repair: bool) -> str:
    if isinstance(exc, CorruptIndex) and not isinstance(exc, IndexLost):
        return str(exc) if repair else f"{exc}; `modelfs fsck --repair` mends what it can"
    return describe(exc)


def _repair(store: Path, *, data: bool, as_json: bool) -> Code:
    _refuse_mounted(store)
    with render.progress_bar("checking", in_bytes=data) as progress:
        done = repair_store(store, data=data, progress=progress)
    if as_json:
        told = {
            "found": [each.to_dict() for each in done.found],
            "actions": [each.to_dict() for each in done.actions],
        }
        render.show_json(_jsonable(done.after, data=data) | told)
    else:
        _show_repair(done, store, data=data)
    if done.after.findings:
        return Code.DAMAGED
    return Code.REPAIRED if done.found else Code.OK


def _refuse_mounted(store: Path) -> None:
    if (daemon := client.connect(store)) is None:
        return
    daemon.close()
    places = [each.path for each in mounts() if each.kind == "fuse.modelfs"]
    where = next((path for path in places if store_of_mount(path) == store), "MOUNTPOINT")
    raise Failure(f"{store} is mounted; first: modelfs umount {where}")


def _show_repair(done: RepairReport, store: Path, *, data: bool) -> None:
    for finding in done.found:
        click.echo(line_of(finding))
    for action in done.actions:
        click.echo(with_names(f"{action.outcome}: {action.message}", action.files, action.tensors))
    if done.found:
        findings = render.counted(len(done.found), "finding")
        mended, quarantined = done.count(Outcome.MENDED), done.count(Outcome.QUARANTINED)
        click.echo(f"{findings}: {mended} mended, {quarantined} quarantined")
    _show(done.after, data=data)
    _show_quarantine(store)


def _check(store: Path, *, data: bool) -> FsckReport:
    if found := check_meta_pages(store):
        return FsckReport(found, files=0, chunks=0, bytes_checked=0, seconds=0.0)
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
        "lost_chunks": report.lost.chunks,
        "lost_bytes": report.lost.bytes,
        "lost_files": [os.fsdecode(file) for file in report.lost.hurt.files],
        "lost_tensors": [*report.lost.hurt.tensors],
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
    _show_lost(report)


def _show_quarantine(store: Path) -> None:
    quarantine = Quarantine(store)
    files, size = quarantine.content()
    if files:
        kept = f"{render.counted(files, 'file')}, {render.human_size(size)}"
        click.echo(f"{kept} that repairs took out: {quarantine.folder}; delete it at will")


def _show_lost(report: FsckReport) -> None:
    """Tell what is known to be lost, which is no finding."""
    if report.lost.chunks:
        size = render.human_size(report.lost.bytes)
        hurt = report.lost.hurt
        what = f"lost: {size} cannot be read until a good copy of a file that has it is written"
        click.echo(with_names(what, hurt.files, hurt.tensors))
