"""Repairing a store: what can be mended is, what cannot is said, and nothing is made up.

Theory of operation. A round checks the store and, if there is a finding, goes through the passes in
their order: each looks at its tables whole and makes them right, by what is *primary* there. Names
are primary and link counts follow from them; extents are, and use counts follow; packs say
themselves what is in them. A pass relies on those before it. The order of a round's writes is that
of every write here: bytes (chunks that are copied, what goes to quarantine), fsync, one commit of
the index, and only then are files moved that it does not mention any more. So whatever interrupts
it leaves the store as it was, or with that round's repairs. The next round begins with a check, and
the last one ends with a check that found nothing, or nothing that could be done.

What is lost stays lost in the open: a chunk whose bytes are gone keeps a record of the kind `LOST`,
and reads of it fail. When a file that has its content is written again, every file that uses the
chunk has it back: see `writer`. This and the passes over names are those of e2fsck and of `zpool
scrub`; quarantine instead of deletion is borg's `check --repair`.
"""

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelfs.jobs.check.findings import Finding
from modelfs.jobs.check.fsck import FsckReport, fsck
from modelfs.jobs.check.meta_pages import check_meta_pages
from modelfs.jobs.check.packs import Progress
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.repair.chunks import repair_chunks
from modelfs.jobs.repair.context import Action, Outcome, RepairContext
from modelfs.jobs.repair.inodes import repair_inodes
from modelfs.jobs.repair.maps import count_missing_extents, repair_maps, repair_windows
from modelfs.jobs.repair.meta_pages import restore_meta_pages
from modelfs.jobs.repair.names import repair_names
from modelfs.jobs.repair.pack_files import restore_quarantined
from modelfs.jobs.repair.quarantine import Quarantine
from modelfs.jobs.repair.rows import (
    remove_ownerless,
    remove_unreadable,
    repair_superblock,
    requeue,
)
from modelfs.jobs.repair.sums import repair_counters, repair_sums
from modelfs.jobs.repair.superblock import restore_superblock
from modelfs.store.folder import check_format, check_index, lock
from modelfs.store.index.tables import Table, number_of
from modelfs.store.packs.pack import pack_name
from modelfs.store.recovery import load_staged
from modelfs.store.store import Store

__all__ = ["Action", "Outcome", "RepairReport", "repair"]

# More are only needed if mending brings more to light than it mends, again and again.
ROUNDS_MAX: Final = 5

# A pass relies on those before it.
PASSES: Final[tuple[Callable[[RepairContext], None], ...]] = (
    remove_unreadable,
    repair_superblock,
    repair_counters,
    repair_inodes,
    remove_ownerless,
    repair_names,
    count_missing_extents,
    repair_chunks,
    repair_maps,
    repair_windows,
    requeue,
    repair_sums,
)


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What was found, what was done about it, and what is left."""

    found: list[Finding]
    actions: list[Action]
    after: FsckReport  # its findings could not be mended

    def count(self, outcome: Outcome) -> int:
        return sum(action.outcome is outcome for action in self.actions)


def repair(folder: Path, *, data: bool = False, progress: Progress | None = None) -> RepairReport:
    """Repair a store that nobody has open. A sound one is not changed at all.

    Args:
        folder: the store.
        data: read every stored byte, too, and repair what is damaged there.
        progress: see `fsck`.

    Raises:
        StoreBusy: somebody has it open.
        CorruptIndex: the index cannot be read.
        OSError: the disk is full or failed. Only rounds before that have changed anything.
    """
    check_format(folder)
    quarantine = Quarantine(folder)
    found, actions = _restore_index(folder, quarantine)
    went_back = any(action.outcome is Outcome.QUARANTINED for action in actions)
    data = data or bool(actions)
    with Store(folder, recover=False) as store:
        for _ in range(ROUNDS_MAX):
            report = fsck(store, data=data, progress=progress)
            found |= dict.fromkeys(report.findings)
            if not report.findings:
                break
            actions |= dict.fromkeys(_round(store, quarantine, report.reported))
        else:
            report = fsck(store, data=data, progress=progress)
        if went_back:
            _keep_unmentioned(store, quarantine)
        return RepairReport([*found], [*actions], report)


def _restore_index(
    folder: Path, quarantine: Quarantine
) -> tuple[dict[Finding, None], dict[Action, None]]:
    # What has to be right before a store can be opened at all.
    held = lock(folder, fcntl.LOCK_EX)
    try:
        check_index(folder)
        found = dict.fromkeys(check_meta_pages(folder))
        actions: dict[Action, None] = {}
        if (restored := restore_meta_pages(folder, quarantine)) is not None:
            actions[Action(Outcome.QUARANTINED, restored)] = None
        if (restored := restore_superblock(folder, quarantine)) is not None:
            found[Finding("superblock", "the index has no superblock that can be read")] = None
            actions[Action(Outcome.MENDED, restored)] = None
    finally:
        os.close(held)
    return found, actions


def _keep_unmentioned(store: Store, quarantine: Quarantine) -> None:
    # What a later commit knew, and opening the store would remove.
    rows = {number_of(key) for key, _ in store.index.pages(Table.PACKS)}
    for pack in store.packs.numbers() - rows:
        quarantine.add_file(store.packs.folder / pack_name(pack))
    load_staged(store.staging, store.inodes)
    for name in store.staging.unmentioned():
        quarantine.add_file(store.staging.folder / name)
    quarantine.move_files()


def _round(store: Store, quarantine: Quarantine, reported: Reported) -> list[Action]:
    if told := [Action(Outcome.MENDED, each) for each in restore_quarantined(store, quarantine)]:
        quarantine.move_files()
        return told  # with the packs in their places, other things are wrong, or none
    context = RepairContext(store, quarantine, reported)
    try:
        with store.index.change():
            for mend in PASSES:
                mend(context)
        quarantine.flush()
    except BaseException:
        store.packs.roll_back(None)
        raise
    store.index.commit()
    store.packs.published()
    quarantine.move_files()
    return context.actions
