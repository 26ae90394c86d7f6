"""Checking a store: all invariants, one after the other.

An invariant is a function that yields a `Finding` for each place where it does not hold. It takes a
`CheckView`, from which it reads the index, and `Reported`: the damage that those before it have
reported, which it passes over, so that one damage is one finding. It yields its own damage as
further parts of that. Together they read the whole index a few times. They read the headers and
segment tables of packs, and the lengths of staging files; with `data`, also every stored byte that
a file uses, and the staged bytes that have a checksum.

A crash may leave files in `packs/` and `staging/` that no row mentions, a pack longer than its row
has it, dead chunks, orphans, staged windows, and extents behind a truncation. None of them is a
finding: opening the store for writing, or gc, removes them.

Nothing is changed. Of a store opened read-only one commit is checked, even if a daemon makes
further commits meanwhile: a copy of the index is read (see `store.index.copy`). A problem is only a
finding if the row that it concerns has not changed since, and files that the daemon deletes
meanwhile are none.

Example. `/a` has chunks 1 and 2, `/b` has chunk 3, which derives from 1. The row of chunk 2 is
junk, and a byte of chunk 1 in pack 1 has flipped::

    rows_decode           row: chunks row 00...02: ...; files: /a     Reported(broken: chunk 2)
    extents_are_sound     nothing: the view passes over the row of chunk 2, which exists
    contents_are_intact   content: chunk 1: its stored bytes ... do not match their checksum;
                          chunks that derive from it: 1; it is in /a; files: /a, /b
                          nothing of chunk 3, whose recipe is intact  Reported(damaged={1})

All parts together are the last field of the `FsckReport`: repair begins with them.
"""

import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from modelfs.errors import CorruptData
from modelfs.jobs.check.chunks import (
    dead_chunks_are_listed,
    extents_are_sound,
    forms_are_possible,
    hashes_find_chunks,
    maps_are_complete,
    uses_are_right,
)
from modelfs.jobs.check.findings import Finding
from modelfs.jobs.check.impact import KnownLoss, known_loss
from modelfs.jobs.check.inode_totals import totals_count_the_rows
from modelfs.jobs.check.lineage import (
    base_only_chunks_are_listed,
    chains_end,
    dependants_are_counted,
    derived_chunks_have_sources,
    links_agree,
    links_lead_to_chunks,
)
from modelfs.jobs.check.names import (
    cookies_are_unique,
    directories_form_a_tree,
    link_counts_are_right,
    names_agree,
    names_lead_somewhere,
    orphans_have_rows,
    symlinks_have_targets,
)
from modelfs.jobs.check.packs import (
    contents_are_intact,
    live_bytes_are_right,
    pack_files_are_there,
    packs_without_a_row_have_nothing,
    places_are_sound,
    segment_tables_agree,
)
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.check.rows import (
    counters_are_ahead,
    inodes_exist,
    lost_bytes_are_staged,
    rows_decode,
    staged_bytes_are_intact,
    superblock_is_right,
    totals_are_right,
    windows_are_there,
)
from modelfs.jobs.check.view import CheckView
from modelfs.jobs.steps import Progress
from modelfs.store.store import Store

Results = Iterator[Finding | Reported]

# In this order: see `Reported`. `rows_decode` comes before them.
INVARIANTS: Final[tuple[Callable[[CheckView, Reported], Results], ...]] = (
    superblock_is_right,
    counters_are_ahead,
    names_agree,
    names_lead_somewhere,
    cookies_are_unique,
    link_counts_are_right,
    directories_form_a_tree,
    orphans_have_rows,
    symlinks_have_targets,
    inodes_exist,
    extents_are_sound,
    uses_are_right,
    maps_are_complete,
    totals_count_the_rows,
    dead_chunks_are_listed,
    hashes_find_chunks,
    forms_are_possible,
    links_agree,
    links_lead_to_chunks,
    derived_chunks_have_sources,
    dependants_are_counted,
    base_only_chunks_are_listed,
    chains_end,
    pack_files_are_there,
    packs_without_a_row_have_nothing,
    places_are_sound,
    segment_tables_agree,
    live_bytes_are_right,
    windows_are_there,
    lost_bytes_are_staged,
    totals_are_right,
)


@dataclass(frozen=True, slots=True)
class FsckReport:
    """The findings of a check, and how much it read."""

    findings: list[Finding]
    files: int
    chunks: int
    bytes_checked: int  # stored bytes that were read and compared
    seconds: float
    # Not among the findings: it is recorded, and reads of it fail.
    lost: KnownLoss = field(default_factory=KnownLoss)
    reported: Reported = field(default_factory=Reported)  # for repair


def check(store: Store, *, data: bool = False, progress: Progress | None = None) -> list[Finding]:
    """Return the findings of `fsck`."""
    return fsck(store, data=data, progress=progress).findings


def fsck(
    store: Store,
    *,
    data: bool = False,
    progress: Progress | None = None,
    found: list[Finding] | None = None,
) -> FsckReport:
    """Check all invariants of a store.

    Args:
        store: open for reading, or for writing by the calling thread.
        data: also read, decode and compare every chunk that a file uses.
        progress: called with the part that is done and the whole: with `data` in bytes, otherwise
            in invariants.
        found: a list to which findings are appended at once, so that an interrupted check leaves
            its findings in it; None: a new one.

    Raises:
        StoreFull: beside a daemon, no disk has room for a copy of the index.
    """
    began = time.monotonic()
    bytes_checked = 0

    def count_bytes(done: int, total: int) -> None:
        nonlocal bytes_checked
        bytes_checked = done
        if progress is not None:
            progress(done, total)

    with store.index.rows.copied():
        findings = [] if found is None else found
        nothing = Reported()
        decoded = rows_decode(CheckView(store), nothing)
        reported = nothing.joined(_damage("rows_decode", decoded, findings))
        view = CheckView(store, reported.broken)
        for done, invariant in enumerate(INVARIANTS, 1):
            results = invariant(view, reported)
            reported = reported.joined(_damage(invariant.__name__, results, findings))
            if progress is not None and not data:
                progress(done, len(INVARIANTS))
        if data:
            contents = contents_are_intact(view, reported, count_bytes)
            reported = reported.joined(_damage("contents_are_intact", contents, findings))
            staged = staged_bytes_are_intact(view, reported)
            reported = reported.joined(_damage("staged_bytes_are_intact", staged, findings))
        return FsckReport(
            findings,
            files=sum(stat.S_ISREG(node.mode) for node in view.inodes()),
            chunks=view.counts.chunks,
            bytes_checked=bytes_checked,
            seconds=time.monotonic() - began,
            lost=known_loss(view),
            reported=reported,
        )


def _damage(invariant: str, results: Results, findings: list[Finding]) -> list[Reported]:
    """Return the damage that an invariant reports, and append its findings to `findings`."""
    # If damage prevents the check of one invariant, the others are still checked. A file that this
    # user may not read is no damage.
    parts: list[Reported] = []
    try:
        for result in results:
            if isinstance(result, Finding):
                findings.append(result)
            else:
                parts.append(result)
    except PermissionError:
        raise
    except (CorruptData, OSError) as exc:
        unknown = f"whether {invariant.replace('_', ' ')} is unknown: {exc}"
        findings.append(Finding("unchecked", unknown))
    return parts
