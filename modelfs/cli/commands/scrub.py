"""`scrub`."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import click

from modelfs.cli import client, render
from modelfs.cli.failure import Code, Failure
from modelfs.cli.findings import line_of
from modelfs.cli.open_store import open_unmounted
from modelfs.cli.params import PATH, size
from modelfs.cli.places import find_store
from modelfs.cli.render import Json
from modelfs.jobs.check.view import Finding
from modelfs.jobs.drive import run_and_commit
from modelfs.jobs.scrub.job import scrub as scrub_store
from modelfs.jobs.scrub.report import scrub_report
from modelfs.jobs.scrub.scrubber import Scrubber
from modelfs.store.store import Store

# Slow enough not to be felt by who reads models; a TiB takes less than five hours.
RATE: Final = "64MiB"

CODES = """\b
Exit codes:
  0   what was checked is sound
  1   could not check
  4   something is damaged
"""


@click.command(epilog=CODES)
@click.argument("place", metavar="STORE|MOUNTPOINT", type=PATH)
@click.option("--background", "mode", flag_value="background", help="Return at once.")
@click.option("--status", "mode", flag_value="status", help="Only tell how far it is.")
@click.option("--stop", "mode", flag_value="stop", help="Stop the one in the background.")
@click.option(
    "--rate",
    type=size,
    default=RATE,
    show_default=True,
    metavar="SIZE",
    help="How much is read per second in the background.",
)
@click.option("--anew", is_flag=True, help="Begin at the beginning, even if one was stopped.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def scrub(*, place: Path, mode: str | None, rate: int, anew: bool, as_json: bool) -> Code:
    """Read all that is stored, and check that the disk still has it right.

    Stopped by Ctrl-C, an unmount or a crash, it goes on where it was. Files and tensors that are
    hurt are named; writing a good copy of such a file heals every file that has the same content.
    """
    store = find_store(place)
    if (daemon := client.connect(store)) is not None:
        with daemon:
            report = _ask(daemon, mode, rate=rate, anew=anew)
    else:
        report = _scrub_unmounted(store, mode, anew=anew)
    if as_json:
        render.show_json(report)
    else:
        _show(report)
    return Code.DAMAGED if report["findings"] else Code.OK


def _ask(daemon: client.DaemonClient, mode: str | None, *, rate: int, anew: bool) -> Json:
    match mode:
        case "status" | "stop":
            return daemon.ask(f"scrub-{mode}")
        case "background":
            return daemon.ask("scrub", rate=max(1, rate), anew=anew)
        case _:
            with render.progress_bar("scrubbing", in_bytes=True) as progress:
                return daemon.ask("scrub", progress, anew=anew)


def _scrub_unmounted(store: Path, mode: str | None, *, anew: bool) -> Json:
    match mode:
        case "background":
            raise Failure(f"{store} is not mounted; without --background it is scrubbed here")
        case "status":
            with Store(store, read_only=True) as opened:
                return scrub_report(opened)
        case "stop":
            with open_unmounted(store) as opened:
                Scrubber(opened).pause()
                return scrub_report(opened)
        case _:
            return _scrub(store, anew=anew)


def _scrub(store: Path, *, anew: bool) -> Json:
    with (
        open_unmounted(store) as opened,
        render.progress_bar("scrubbing", in_bytes=True) as progress,
    ):
        run_and_commit(scrub_store(Scrubber(opened), progress, restart=anew), opened)
        return scrub_report(opened)


def _show(report: Json) -> None:
    for line in _lines(report):
        click.echo(line)


def _lines(report: Json) -> Iterator[str]:
    yield from (line_of(Finding.from_dict(each)) for each in report["findings"])
    if not report["started_ns"]:
        yield "never scrubbed"
        return
    if report["findings"]:
        yield "next: write good copies, or unmount and `modelfs fsck --repair --data`"
    seen = f"{render.counted(report['chunks'], 'chunk')}, {render.human_size(report['bytes'])} read"
    found = f"{len(report['findings'])} damaged" if report["findings"] else "none damaged"
    share = render.percent(report["done"], report["total"])
    if report["ended_ns"]:
        yield f"scrubbed until {_moment(report['ended_ns'])}: {seen}, {found}"
    elif report["running"]:
        speed = f", {render.human_size(report['rate'])}/s" if report["rate"] else ""
        yield f"scrubbing since {_moment(report['started_ns'])}{speed}: {share}, {seen}, {found}"
    else:
        yield f"stopped at {share}: {seen}, {found}; `modelfs scrub` goes on"


def _moment(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9).astimezone().isoformat(" ", "seconds")
