"""`modelfs scrub`."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import click

from modelfs.cli import client, params, render
from modelfs.cli.failure import Code, Failure
from modelfs.cli.findings import line_of
from modelfs.cli.open_store import open_for_reading, open_unmounted
from modelfs.cli.params import PATH
from modelfs.cli.places import find_store
from modelfs.cli.render import Json
from modelfs.jobs.check.findings import Finding
from modelfs.jobs.drive import run_and_commit
from modelfs.jobs.scrub.job import scrub as scrub_store
from modelfs.jobs.scrub.report import scrub_report
from modelfs.jobs.scrub.scrubber import Scrubber
from modelfs.store.disk.directory import Directory

# A TiB takes less than five hours, and programs that read models do not become slower.
RATE: Final = "64MiB"

CODES = """\b
Exit codes:
  0   no damage in the data that was checked
  1   could not check
  2   wrong usage
  4   damage found
  130 interrupted with Ctrl-C
"""


@click.command(epilog=CODES)
@click.argument("place", metavar="STORE|MOUNTPOINT", type=PATH)
@click.option("--background", "mode", flag_value="background", help="Start it, and return.")
@click.option("--status", "mode", flag_value="status", help="Only show the progress and result.")
@click.option("--stop", "mode", flag_value="stop", help="Stop a scrub in the background.")
@click.option(
    "--rate",
    type=params.rate,
    default=RATE,
    show_default=True,
    metavar="SIZE",
    help="Bytes to read per second in the background.",
)
@click.option("--anew", is_flag=True, help="Start from the beginning, even if one was stopped.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@params.trust
def scrub(
    *, place: Path, mode: str | None, rate: int, anew: bool, as_json: bool, trust: bool
) -> Code:
    """Read all stored data, and find the bytes that the disk has lost.

    Lists the files and tensors that are affected. To repair them, write a good copy of one such
    file: all files with the same content are whole again. A scrub that is interrupted is continued
    by the next.
    """
    store = find_store(place)
    try:
        report = _report(store, mode, rate=rate, anew=anew, trust=trust)
    except KeyboardInterrupt:
        # The daemon ends the scrub of a command that hangs up, maybe a moment later.
        report = _report(store, "status", rate=rate, anew=False, trust=trust)
        report["running"] = bool(report["rate"])
        code = Code.INTERRUPTED
    else:
        code = Code.DAMAGED if report["findings"] else Code.OK
    if as_json:
        render.show_json(report)
    else:
        for line in _lines(report, params.next_command("scrub", place, trust=trust)):
            click.echo(line)
    return code


def _report(store: Directory, mode: str | None, *, rate: int, anew: bool, trust: bool) -> Json:
    """Scrub as `mode` asks for, and return the report."""
    connect = client.connect_to_read if mode == "status" else client.connect
    if (daemon := connect(store, trust=trust)) is None:
        return _scrub_unmounted(store, mode, anew=anew, trust=trust)
    with daemon:
        match mode:
            case "status" | "stop":
                return daemon.ask(f"scrub-{mode}")
            case "background":
                return daemon.ask("scrub", rate=rate, anew=anew)
            case _:
                with render.progress_bar("scrubbing", in_bytes=True) as progress:
                    return daemon.ask("scrub", progress, anew=anew)


def _scrub_unmounted(store: Directory, mode: str | None, *, anew: bool, trust: bool) -> Json:
    match mode:
        case "background":
            raise Failure(
                f"{store.path} is not mounted; mount it, or scrub it without --background"
            )
        case "status":
            with open_for_reading(store, trust=trust) as opened:
                return scrub_report(opened)
        case "stop":
            with open_unmounted(store, trust=trust) as opened:
                Scrubber(opened).pause()
                return scrub_report(opened)
        case _:
            with (
                open_unmounted(store, trust=trust) as opened,
                render.progress_bar("scrubbing", in_bytes=True) as progress,
            ):
                run_and_commit(scrub_store(Scrubber(opened), progress, restart=anew), opened)
                return scrub_report(opened)


def _lines(report: Json, command: str) -> Iterator[str]:
    """Yield the report as lines of text. `command` scrubs the store."""
    yield from (line_of(Finding.from_dict(finding)) for finding in report["findings"])
    if not report["started_ns"]:
        yield f"never scrubbed; start with: {command}"
        return
    if report["findings"]:
        yield "next: write good copies, or unmount and run `modelfs fsck --repair --data`"
    read = f"{render.counted(report['chunks'], 'chunk')}, {render.human_size(report['bytes'])} read"
    damaged = f"{len(report['findings'])} damaged" if report["findings"] else "none damaged"
    share = render.percent(report["done"], report["total"])
    if report["ended_ns"]:
        yield f"finished {_local_time(report['ended_ns'])}: {read}, {damaged}"
    elif report["running"]:
        speed = f", {render.human_size(report['rate'])}/s" if report["rate"] else ""
        begun = _local_time(report["started_ns"])
        yield f"running, begun {begun}{speed}: {share}, {read}, {damaged}"
    else:
        yield f"stopped at {share}: {read}, {damaged}; continue with: {command}"


def _local_time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9).astimezone().isoformat(" ", "seconds")
