"""Scrub, as jobs."""

import logging
from functools import partial

from modelfs.jobs.check.findings import with_names
from modelfs.jobs.scrub.report import damage_findings
from modelfs.jobs.scrub.scrubber import CheckedRange, Scrubber
from modelfs.jobs.steps import Job, Pause, Progress, Work
from modelfs.store.store import Store

log = logging.getLogger(__name__)


def scrub_next(scrubber: Scrubber) -> Job[CheckedRange | None]:
    """Check the next range of a pack, and return it with its damage; None at the scrub's end."""
    scrubber.forget_healed()
    if (part := scrubber.next_range()) is None:
        return None
    checked: CheckedRange = yield Work(partial(scrubber.check, part))
    scrubber.apply(part, checked)
    return checked


def scrub(
    scrubber: Scrubber, progress: Progress | None = None, *, restart: bool = False
) -> Job[None]:
    """Scrub to the end, from the position of a stopped scrub if there is one.

    Damaged chunks are recorded in the index (`Scrubber.damaged`); damage of pack files is logged.

    Args:
        scrubber: of the store.
        progress: called with the bytes done and the bytes of all packs, after each range.
        restart: begin with the first pack, even if a scrub was stopped.
    """
    scrubber.begin(restart=restart)
    while (checked := (yield from scrub_next(scrubber))) is not None:
        for problem in checked.problems:
            log.error("%s", problem)
        if progress is not None:
            status = scrubber.status()
            progress(status.done, status.total)
        yield Pause()


def log_damage(store: Store, checked: CheckedRange) -> None:
    """Log the damage of a range, with the files and tensors that need its chunks. Any thread."""
    for problem in checked.problems:
        log.error("scrub: %s", problem)
    if checked.damaged:
        for finding in damage_findings(store, checked.damaged):
            text = with_names(finding.message, finding.files, finding.tensors)
            log.error("scrub: %s", text)
