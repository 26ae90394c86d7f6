"""Repairing a store: damage is repaired from redundant records, and losses are reported.

Theory of operation. A round checks the store. If there are findings, the passes follow in their
order. Each reads its tables whole, and corrects them by the *primary* data: link counts follow from
names, use counts from extents, and the records of chunks from the segment tables of packs. A pass
relies on those before it. The order of a round's writes is that of all writes in modelfs: bytes
(copied chunks, quarantine), fsync, one commit of the index, and then files are moved that it does
not mention any more. So an interrupted round leaves the store as it was, or with all repairs of the
round. The next round begins with a check; after the last, the check has no findings, or none that
repair can do anything about. If commits of the index are lost, see `unfinished`.

Lost data is never invented: a chunk whose stored bytes are gone keeps a record of the kind `LOST`,
and reads of it fail. When a file with the same content is written, the chunk is stored again, for
every file that uses it: see `writer`. Lost chunks and the passes over names are modelled on `zpool
scrub` and e2fsck, quarantine instead of deletion on borg's `check --repair`.

Example. The row of chunk 2, which `/a` uses, is junk, but the segment table of pack 1 has it::

    round 1   check         one finding: the row does not decode
              passes        remove_unreadable sets the row aside; repair_chunks finds the chunk in
                            pack 1, and makes its record; recount_uses counts its extents
              commit        rows.jsonl in quarantine is synced, then the index
    round 2   check         no findings: the end
"""

import fcntl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelfs.errors import CorruptIndex
from modelfs.jobs.check.findings import Finding
from modelfs.jobs.check.fsck import FsckReport, fsck
from modelfs.jobs.check.pages import meta_page_findings
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.repair.chunks import repair_chunks
from modelfs.jobs.repair.context import Action, Outcome, RepairContext
from modelfs.jobs.repair.inode_totals import (
    lose_incomplete_files,
    recount_totals_of_inodes,
    report_missing_rows,
)
from modelfs.jobs.repair.inodes import repair_inodes
from modelfs.jobs.repair.maps import repair_maps
from modelfs.jobs.repair.meta_pages import restore_meta_pages
from modelfs.jobs.repair.missing_extents import count_extents, keep_unmapped_chunks
from modelfs.jobs.repair.names import repair_names
from modelfs.jobs.repair.pack_files import rename_packs
from modelfs.jobs.repair.pages import salvage_index
from modelfs.jobs.repair.quarantine import Quarantine
from modelfs.jobs.repair.rows import (
    remove_ownerless,
    remove_unreadable,
    repair_superblock,
    requeue,
)
from modelfs.jobs.repair.sums import (
    rebuild_hashes,
    recount_links,
    recount_live_bytes,
    recount_totals,
    recount_uses,
    repair_counters,
)
from modelfs.jobs.repair.superblock import restore_superblock
from modelfs.jobs.repair.unfinished import LossNote, unfinished_repair_findings
from modelfs.jobs.repair.windows import repair_windows
from modelfs.jobs.steps import Progress
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import check_format, lock, open_folder, open_index_folder
from modelfs.store.index.tables import Table, number_of
from modelfs.store.packs.header import pack_name
from modelfs.store.recovery import load_staged
from modelfs.store.sessions import begin_session
from modelfs.store.store import Store
from modelfs.store.upgrade import commit_upgrade

__all__ = ["Action", "Outcome", "RepairReport", "repair"]

# More are only needed if each round uncovers more damage than it repairs.
ROUNDS_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class RepairReport:
    """The findings of all checks, the repairs, and the last check."""

    found: list[Finding]  # each once
    actions: list[Action]
    after: FsckReport  # its findings could not be repaired

    @property
    def repaired(self) -> int:
        """The number of findings that the last check does not have."""
        return len(set(self.found) - set(self.after.findings))

    @property
    def left(self) -> int:
        """The number of findings of the last check."""
        return len(self.after.findings)

    def count(self, outcome: Outcome) -> int:
        """Return the number of repairs with an outcome. One repair may mend several findings."""
        return sum(action.outcome is outcome for action in self.actions)


def repair(
    folder: Path | Directory,
    *,
    data: bool = False,
    progress: Progress | None = None,
    trust: bool = False,
) -> RepairReport:
    """Repair a store that no process has open. A sound store is not changed.

    Args:
        folder: of the store: its path, or a result of `find_store`.
        data: also read every stored byte, and repair damaged chunks.
        progress: see `fsck`.
        trust: see `Store`.

    Raises:
        StoreNotTrusted: other users may be able to change it, and `trust` is not given.
        StoreBusy: another process has it open.
        CorruptIndex: the index cannot be read.
        FolderMissing: the folder of the packs or of the staging files is missing.
        OSError: the disk is full or failed. The repairs of earlier rounds stay.
    """
    directory = open_folder(folder, read_only=False, trust=trust)
    check_format(directory)
    quarantine = Quarantine(directory)
    findings, actions, note = _restore_index(directory, quarantine)
    data = data or bool(actions)
    with Store(directory, recover=False, trust=trust) as store:
        for _ in range(ROUNDS_MAX):
            report = fsck(store, data=data, progress=progress)
            findings |= dict.fromkeys(report.findings)
            if not report.findings:
                break
            actions |= dict.fromkeys(_round(store, quarantine, report.reported))
        else:
            report = fsck(store, data=data, progress=progress)
            findings |= dict.fromkeys(report.findings)
        if note.exists():
            _keep_unmentioned(store, quarantine)
            note.remove()
        return RepairReport([*findings], [*actions], report)


def _restore_index(
    folder: Directory, quarantine: Quarantine
) -> tuple[dict[Finding, None], dict[Action, None], LossNote]:
    """Repair the parts that must be right before a store can be opened."""
    locked = lock(folder, fcntl.LOCK_EX)
    try:
        index = open_index_folder(folder)
        note = LossNote(folder)
        actions = {Action(Outcome.QUARANTINED, loss): None for loss in note.losses}
        findings = dict.fromkeys([*unfinished_repair_findings(folder), *meta_page_findings(index)])
        if (metas := restore_meta_pages(index, quarantine, note.add)) is not None:
            outcome = Outcome.REPAIRED if metas.is_lossless else Outcome.QUARANTINED
            actions[Action(outcome, metas.message)] = None
            findings = findings or {Finding("meta-page", metas.message): None}
        salvage = salvage_index(folder, index, quarantine, note.add)
        try:
            restored = restore_superblock(folder, quarantine)
        except CorruptIndex as exc:  # LMDB refuses it
            if salvage is not None:
                raise
            salvage = salvage_index(folder, index, quarantine, note.add, exc)
            restored = restore_superblock(folder, quarantine)
        if salvage is not None:
            findings |= dict.fromkeys(salvage.findings)
            actions[Action(Outcome.QUARANTINED, salvage.message)] = None
        if restored is not None:
            findings[Finding("superblock", "the index has no superblock that can be read")] = None
            actions[Action(Outcome.REPAIRED, restored)] = None
    finally:
        locked.close()
    return findings, actions, note


def _keep_unmentioned(store: Store, quarantine: Quarantine) -> None:
    """Set files aside that a later, lost commit mentioned: opening the store would remove them."""
    rows = {number_of(key) for key, _ in store.index.pages(Table.PACKS)}
    for pack in store.packs.numbers() - rows:
        quarantine.add_file(store.packs.directory, pack_name(pack))
    load_staged(store.staging)
    for name in store.staging.unmentioned():
        quarantine.add_file(store.staging.directory, name)
    quarantine.move_files()


def _round(store: Store, quarantine: Quarantine, reported: Reported) -> list[Action]:
    """Do one round after a check with findings, and return its repairs."""
    if messages := list(rename_packs(store, quarantine)):
        quarantine.move_files()
        # With the packs in their places, the next check has other findings, or none.
        return [Action(Outcome.REPAIRED, message) for message in messages]
    context = RepairContext(store, quarantine, reported)
    try:
        with store.index.change():
            # A repair gives out numbers, and may have gone back to the commit before the last.
            begin_session(store.index, store.counters, store.staging)
            run_passes(context)
        quarantine.flush()
    except BaseException:
        store.packs.roll_back(None)
        raise
    commit_upgrade(store.index)
    store.packs.published()
    quarantine.move_files()
    return context.actions


def run_passes(context: RepairContext) -> None:
    """Run all passes of a round. A pass relies on those before it."""
    remove_unreadable(context)
    repair_superblock(context)
    repair_counters(context)
    repair_inodes(context)
    remove_ownerless(context)
    repair_names(context)
    lose_incomplete_files(context)
    report_missing_rows(context)
    counted = count_extents(context)
    repair_chunks(context)
    repair_maps(context, counted)
    repair_windows(context)
    keep_unmapped_chunks(context, counted)
    requeue(context)
    recount_uses(context)
    rebuild_hashes(context)
    recount_live_bytes(context)
    recount_links(context)
    recount_totals_of_inodes(context)
    recount_totals(context)
