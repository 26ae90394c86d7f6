"""`modelfs fsck`."""

import os
from pathlib import Path
from typing import Any, Final

import click

from modelfs.cli import client, params, render
from modelfs.cli.failure import EXPECTED, Code, Failure, describe
from modelfs.cli.findings import line_of, with_names
from modelfs.cli.open_store import open_for_reading, pinned
from modelfs.cli.params import PATH
from modelfs.cli.places import find_mount_point, find_store
from modelfs.errors import CorruptIndex, DamagedPages, IndexLost
from modelfs.jobs.check.findings import Finding
from modelfs.jobs.check.fsck import FsckReport
from modelfs.jobs.check.fsck import fsck as check_store
from modelfs.jobs.check.pages import meta_page_findings, page_findings
from modelfs.jobs.repair.quarantine import Quarantine
from modelfs.jobs.repair.run import Outcome
from modelfs.jobs.repair.run import repair as repair_store
from modelfs.jobs.repair.unfinished import unfinished_repair_findings
from modelfs.shell_word import shell_word
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import open_folder, open_index_folder

CODES = """\b
Exit codes, as in fsck(8):
  0   no damage
  1   damage was found, and all of it is repaired
  4   damage is left
  8   could not check
  16  wrong usage
And:
  130 interrupted with Ctrl-C
"""
OUTCOMES: Final = {Outcome.REPAIRED: "repaired", Outcome.QUARANTINED: "quarantined"}


@click.command(epilog=CODES)
@click.argument("place", metavar="STORE|MOUNTPOINT", type=PATH)
@click.option("--data", is_flag=True, help="Also read all stored data, and check its checksums.")
@click.option("--repair", is_flag=True, help="Repair the damage. The store must not be mounted.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@params.trust
def fsck(place: Path, *, data: bool, repair: bool, as_json: bool, trust: bool) -> Code:
    """Check a store for damage, and repair it.

    Without --repair nothing is changed. A mounted store can be checked, as of its last commit.

    With --repair, data that is lost is listed. Reads of it fail until a good copy of the file is
    written. Its remains are kept in the store's folder, in quarantine.
    """
    found: list[Finding] = []
    try:
        store = find_store(place)
        if repair:
            return _repair(store, data=data, as_json=as_json, trust=trust)
        folder = open_folder(store, read_only=True, trust=trust)
        report = _check(store, folder, data=data, found=found)
    except KeyboardInterrupt as exc:
        if not as_json:
            for finding in found:
                click.echo(line_of(finding))
        options = "".join(f" --{name}" for name, on in (("repair", repair), ("data", data)) if on)
        raise Failure(
            f"interrupted; {render.counted(len(found), 'finding')} so far; "
            f"for all of them: {params.next_command(f'fsck{options}', place, trust=trust)}",
            Code.INTERRUPTED,
        ) from exc
    except EXPECTED as exc:
        message = describe(exc)
        if isinstance(exc, CorruptIndex) and not isinstance(exc, IndexLost):
            command = params.next_command("fsck --repair", place, trust=trust)
            message = str(exc) if repair else f"{exc}; repair it with: {command}"
        raise Failure(message, Code.NOT_CHECKED) from exc
    if as_json:
        render.show_json(_jsonable(report, data=data))
    else:
        _show(report, folder, data=data)
    return Code.DAMAGED if report.findings else Code.OK


def _check(store: Directory, folder: Directory, *, data: bool, found: list[Finding]) -> FsckReport:
    """Return the findings; only those about an unfinished repair and pages, if there are such.

    Those of the other kind are appended to `found` at once.
    """
    findings = [
        *unfinished_repair_findings(folder),
        *meta_page_findings(open_index_folder(folder)),
    ]
    try:
        if not findings:
            with (
                pinned(store, trust=folder.trust),
                open_for_reading(store, trust=folder.trust) as opened,
                render.progress_bar("checking", in_bytes=data) as progress,
            ):
                return check_store(opened, data=data, progress=progress, found=found)
    except DamagedPages as exc:
        findings = page_findings(exc)
    return FsckReport(findings, files=0, chunks=0, bytes_checked=0, seconds=0.0)


def _repair(store: Directory, *, data: bool, as_json: bool, trust: bool) -> Code:
    """Repair a store that is not mounted, and print the repairs."""
    if (daemon := client.connect(store, trust=trust)) is not None:
        daemon.close()
        mount_point = find_mount_point(store.identity) or Path("MOUNTPOINT")
        raise Failure(
            f"{store.path} is mounted; unmount it with: modelfs umount {shell_word(mount_point)}"
        )
    with render.progress_bar("checking", in_bytes=data) as progress:
        report = repair_store(store, data=data, progress=progress, trust=trust)
    if as_json:
        repairs = {
            "found": [finding.to_dict() for finding in report.found],
            "actions": [action.to_dict() for action in report.actions],
        }
        render.show_json(_jsonable(report.after, data=data) | repairs)
    else:
        for finding in report.found:
            click.echo(line_of(finding))
        for action in report.actions:
            text = f"{OUTCOMES[action.outcome]}: {action.message}"
            click.echo(with_names(text, action.files, action.tensors))
        if report.found:
            findings = render.counted(len(report.found), "finding")
            done = render.counted(len(report.actions), "repair")
            lossy = report.count(Outcome.QUARANTINED)
            click.echo(
                f"{findings}: {report.repaired} repaired, {report.left} left; "
                f"{done}, {lossy} with a loss"
            )
        _show(report.after, open_folder(store, read_only=True, trust=trust), data=data)
    if report.after.findings:
        return Code.DAMAGED
    # 1 is "errors corrected" in fsck(8).
    return Code.FAILED if report.found else Code.OK


def _jsonable(report: FsckReport, *, data: bool) -> dict[str, Any]:
    return {
        "data": data,
        "files": report.files,
        "chunks": report.chunks,
        "bytes_checked": report.bytes_checked,
        "lost_chunks": report.lost.chunks,
        "lost_bytes": report.lost.bytes,
        "lost_files": [os.fsdecode(file) for file in report.lost.impact.files],
        "lost_tensors": [*report.lost.impact.tensors],
        "findings": [finding.to_dict() for finding in report.findings],
    }


def _show(report: FsckReport, folder: Directory, *, data: bool) -> None:
    """Print findings, a summary, the lost content and the quarantine."""
    for finding in report.findings:
        click.echo(line_of(finding))
    checked = f"{render.counted(report.files, 'file')}, {render.counted(report.chunks, 'chunk')}"
    if data:
        checked += f", {render.human_size(report.bytes_checked)} read"
    if report.findings:
        click.echo(f"{render.counted(len(report.findings), 'finding')} in {checked}")
    else:
        verdict = "no new damage" if report.lost.bytes else "no damage"
        command = params.next_command("fsck --data", folder.path, trust=folder.trust)
        more = "" if data else f"; to read all data as well: {command}"
        click.echo(f"{verdict}: {checked}{more}")
    if report.lost.bytes:
        size, impact = render.human_size(report.lost.bytes), report.lost.impact
        text = f"lost: {size} (to get it back, write a good copy of an affected file)"
        click.echo(with_names(text, impact.files, impact.tensors))
    quarantine = Quarantine(folder)
    files, bytes_kept = quarantine.content()
    if files:
        kept = f"{render.counted(files, 'file')}, {render.human_size(bytes_kept)}"
        click.echo(f"quarantine: {kept} of damaged data in {quarantine.path}; you may delete it")
