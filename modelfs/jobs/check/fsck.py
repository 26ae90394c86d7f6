"""Checking a store: every invariant, and what breaks it.

An invariant is a function that takes a `CheckView` of the store and yields a `Finding` for each
place where it does not hold. Together they read the whole index a few times over, and of the packs
and the staging files no more than what is needed to see that they are there; with `data`, every
stored byte that a file uses.

What a crash leaves is no finding: files in `packs/` and `staging/` that no row mentions, a pack
longer than its row says, dead chunks, orphans, staged windows, and extents behind a truncation.
Opening the store for writing, or gc, removes them.

Nothing is changed. Of a store opened read-only, one commit is looked at, whatever a daemon commits
meanwhile; files that it deletes meanwhile are not missed.
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
from modelfs.jobs.check.lineage import (
    chains_end,
    derived_chunks_have_sources,
    held_chunks_are_listed,
    links_agree,
    links_lead_to_chunks,
    pins_are_right,
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
    Progress,
    contents_are_intact,
    live_bytes_are_right,
    pack_files_are_there,
    packs_without_a_row_have_nothing,
    places_are_sound,
    segment_tables_agree,
)
from modelfs.jobs.check.rows import (
    counters_are_ahead,
    inodes_exist,
    rows_decode,
    superblock_is_right,
    totals_are_right,
    windows_are_there,
)
from modelfs.jobs.check.view import CheckView, Finding, KnownLoss, Severity
from modelfs.store.store import Store

__all__ = ["Finding", "FsckReport", "Severity", "check", "fsck"]

# In this order: some pass over what one before them has reported.
INVARIANTS: Final[tuple[Callable[[CheckView], Iterator[Finding]], ...]] = (
    rows_decode,
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
    dead_chunks_are_listed,
    hashes_find_chunks,
    forms_are_possible,
    links_agree,
    links_lead_to_chunks,
    derived_chunks_have_sources,
    pins_are_right,
    held_chunks_are_listed,
    chains_end,
    pack_files_are_there,
    packs_without_a_row_have_nothing,
    places_are_sound,
    segment_tables_agree,
    live_bytes_are_right,
    windows_are_there,
    totals_are_right,
)


@dataclass(frozen=True, slots=True)
class FsckReport:
    """What was found, and in how much."""

    findings: list[Finding]
    files: int
    chunks: int
    bytes_checked: int  # stored bytes that were read and compared
    seconds: float
    lost: KnownLoss = field(
        default_factory=KnownLoss
    )  # no finding: it is known, and kept from being read


def check(store: Store, *, data: bool = False, progress: Progress | None = None) -> list[Finding]:
    """Return every invariant that does not hold; see `fsck`."""
    return fsck(store, data=data, progress=progress).findings


def fsck(
    store: Store,
    *,
    data: bool = False,
    progress: Progress | None = None,
    view: CheckView | None = None,
) -> FsckReport:
    """Check all invariants of a store.

    Args:
        store: open for reading, or for writing by the calling thread.
        data: also read, decode and compare every chunk that a file uses.
        progress: told how much is done and how much there is to do: with `data` in bytes,
            otherwise in invariants.
        view: what is found out on the way is left in it; a new one unless it is given.
    """
    began = time.monotonic()
    with store.index.pinned():
        view = CheckView(store) if view is None else view
        findings: list[Finding] = []
        for done, invariant in enumerate(INVARIANTS, 1):
            findings += _found(invariant.__name__, invariant(view))
            if progress is not None and not data:
                progress(done, len(INVARIANTS))
        if data:
            findings += _found(contents_are_intact.__name__, contents_are_intact(view, progress))
        return FsckReport(
            findings,
            files=sum(stat.S_ISREG(node.mode) for node in view.inodes()),
            chunks=view.census.chunks,
            bytes_checked=view.bytes_checked,
            seconds=time.monotonic() - began,
            lost=view.losses(),
        )


def _found(invariant: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    # Damage that keeps an invariant from being looked at must not keep the others from it.
    try:
        yield from findings
    except (CorruptData, OSError) as exc:
        yield Finding("unchecked", f"whether {invariant.replace('_', ' ')} is unknown: {exc}")
