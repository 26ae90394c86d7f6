"""Repair of chunks and packs: every chunk that can be read is put where it is safe.

1. *Suspects.* A record is believed without another look if the table of its segment, in a pack that
   is whole, has just the same. Any other is suspect, and so are the chunks that the check found
   damaged, and those that are needed and have no record.
2. *Verdicts.* For each suspect an intact copy is looked for: see `verdicts`. Its record is put into
   the index. A chunk without one is lost, and its record says so; if its own bytes are damaged,
   they go to quarantine.
3. *Lineage.* The rows that say which chunk derives from which are restored from the recipes.
4. *Places.* Chunks in damaged packs, or where no segment table has them, are copied to a new pack;
   `repair_pack_rows` sees to what is left of the old ones.

Example. Pack 1 has chunks 1, 2 and 3, its segment table is damaged, and the row of chunk 2 is junk;
pack 2 has an older copy of chunk 3::

    suspects    1, 3       no table has their records
                2          an extent needs it, and its row was set aside
    verdicts    1, 3       Intact: their bytes have the hashes of their records
                2          Bad: no table says where it is; it has no record, and none is made
    places      1, 3       copied to pack 3; pack 1 goes to quarantine, whole

The ranges of files that had chunk 2 are lost when the maps are repaired, after this.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from modelfs.errors import CorruptChunk, CorruptData
from modelfs.jobs.check.impact import impacts
from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.pack_files import read_segment_tables
from modelfs.jobs.repair.pack_rows import repair_pack_rows
from modelfs.jobs.repair.relocate import relocate
from modelfs.jobs.repair.verdicts import Bad, Evidence, Needs, Verdict, resolve
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key, number_of, pair_key

# Where rows that do not decode leave it open what derives from what.
LINEAGE: Final = (Table.CHUNKS, Table.SOURCES, Table.DEPENDANTS)


@dataclass(slots=True)
class Changes:
    """What came of the verdicts so far."""

    needed: set[ChunkId]  # by extents, or by recipes
    restored: int = 0  # records that were not right
    lost: dict[ChunkId, Chunk] = field(default_factory=dict)  # with the record of before
    unsafe: dict[ChunkId, Chunk] = field(default_factory=dict)  # intact, but in no place to stay


def repair_chunks(context: RepairContext) -> None:
    """Let every chunk that is needed be where its record says, or be lost."""
    view = context.view()
    changes = Changes(view.references.extents.keys() | view.derivations.dependants.keys())
    evidence = collect_evidence(context)
    in_doubt = list(suspects(context, evidence, changes.needed))
    apply(context, evidence, resolve(evidence, in_doubt), changes)
    plain = {chunk for chunk in context.reported.too_long if _is_readable(context, chunk)}
    if in_doubt or _is_lineage_doubtful(context):
        relink(context, evidence, changes, plain)
    report(context, changes)
    relocate(context, evidence, changes.unsafe, plain)
    repair_pack_rows(context, evidence.packs, evidence.damaged)


def _is_readable(context: RepairContext, chunk: ChunkId) -> bool:
    try:
        context.store.chunk_reader.read_uncached(chunk, context.store.chunks.record(chunk))
    except (CorruptData, OSError):
        return False
    return True


def collect_evidence(context: RepairContext) -> Evidence:
    """Read the segment tables of all packs that there are, or that a row mentions."""
    store = context.store
    packs = store.packs.numbers()
    packs |= {PackId(number_of(key)) for key, _ in context.rows(Table.PACKS)}
    records = (record for _, record in context.rows(Table.CHUNKS))
    packs |= {record.pack for record in records if not record.is_lost}
    states = {pack: read_segment_tables(store.packs, pack) for pack in packs}
    damaged = {
        pack for pack, state in states.items() if state.is_damaged(store.chunks.pack_row(pack).stop)
    }
    return Evidence(store, states, damaged)


def suspects(
    context: RepairContext, evidence: Evidence, needed: Collection[ChunkId]
) -> Iterator[ChunkId]:
    """Yield the chunks whose records are in doubt, then those that are needed and have none."""
    missing = set(needed)
    reported = context.reported.damaged | context.reported.endless
    # Their sources are in doubt, which are questioned with them.
    reported |= {each for each in context.reported.too_long if not _is_readable(context, each)}
    for key, record in context.rows(Table.CHUNKS):
        chunk = ChunkId(number_of(key))
        missing.discard(chunk)
        if chunk in reported or _is_suspect(evidence, chunk, record):
            yield chunk
    yield from sorted(missing)


def _is_suspect(evidence: Evidence, chunk: ChunkId, record: Chunk) -> bool:
    if evidence.form_problem(record) is not None:
        return True
    if record.is_lost:
        # Unless a pack is here that was not: it may have been found, and put back.
        return any(state.has(chunk) for state in evidence.packs.values())
    is_listed = chunk in evidence.store.chunks.with_digest(record.digest)
    return not is_listed or not evidence.is_safe(chunk, record)


def apply(
    context: RepairContext,
    evidence: Evidence,
    verdicts: Mapping[ChunkId, Verdict],
    changes: Changes,
) -> None:
    """Let the index say what the verdicts do, and note what else they ask for."""
    changes.needed |= {each.source for each in verdicts.values() if isinstance(each, Needs)}
    for chunk, verdict in verdicts.items():
        record = context.store.chunks.find(chunk)
        if not isinstance(verdict, Bad):
            if not evidence.is_safe(chunk, verdict.record):
                changes.unsafe[chunk] = verdict.record
            context.put_chunk(chunk, verdict.record)
            changes.restored += record != verdict.record
        elif record is None:
            continue  # the ranges of files that have it are lost when the maps are repaired
        elif not record.is_lost or evidence.form_problem(record) is not None:
            _lose(context, evidence, changes, chunk)


def _lose(context: RepairContext, evidence: Evidence, changes: Changes, chunk: ChunkId) -> None:
    record = context.store.chunks.record(chunk)
    changes.unsafe.pop(chunk, None)
    if record.pack not in evidence.damaged and evidence.form_problem(record) is None:
        # In a damaged pack the stored bytes are kept with the whole file.
        with contextlib.suppress(CorruptData, OSError):
            stored = context.store.packs.read(record.pack, record.offset, record.stored)
            context.quarantine.add_content(f"chunk-{chunk}", stored)
    lost = record.as_lost()
    if chunk in changes.needed and evidence.form_problem(lost) is None:
        context.put_chunk(chunk, lost)
    else:
        context.drop(Table.CHUNKS, number_key(chunk), "damaged, and nowhere else")
    if chunk in changes.needed:
        changes.lost[chunk] = record
    else:
        context.repaired(f"chunk {chunk} was damaged, and nothing uses it: removed")


# -- lineage


def _is_lineage_doubtful(context: RepairContext) -> bool:
    reported = context.reported
    if reported.lineage_doubtful or reported.baseless or reported.too_long:
        return True
    return any(context.unreadable[table] for table in LINEAGE)


def relink(
    context: RepairContext, evidence: Evidence, changes: Changes, plain: Collection[ChunkId]
) -> None:
    """Let the rows of lineage say what the recipes do, but for chunks that are to be `plain`.

    Chunks whose recipes cannot be read, or name sources that have no record, become suspect, and so
    do these sources. The second time such a chunk is lost.
    """
    sources: dict[ChunkId, tuple[ChunkId, ...]] = {}
    judged: set[ChunkId] = set()
    while unread := [each for each in _derived(context, plain) if each[0] not in sources]:
        doubtful: set[ChunkId] = set()
        for chunk, record in unread:
            try:
                sources[chunk] = context.store.chunk_reader.recipe(chunk, record).sources
            except (CorruptChunk, OSError):
                doubtful.add(chunk)
        changes.needed.update(*sources.values())
        all_sources = set().union(*sources.values())
        missing = {each for each in all_sources if context.store.chunks.find(each) is None}
        doubtful |= missing
        doubtful |= {chunk for chunk, of in sources.items() if missing.intersection(of)}
        verdicts: dict[ChunkId, Verdict] = resolve(evidence, sorted(doubtful - judged))
        verdicts |= dict.fromkeys(sorted(doubtful & judged), Bad())
        apply(context, evidence, verdicts, changes)
        judged |= doubtful
        for chunk in doubtful:
            sources.pop(chunk, None)
    links = [pair_key(chunk, source) for chunk, of in sources.items() for source in of]
    back = [key[8:] + key[:8] for key in links]
    changed = context.settle(Table.SOURCES, dict.fromkeys(links, b""))
    changed += context.settle(Table.DEPENDANTS, dict.fromkeys(back, b""))
    if changed:
        context.repaired(f"rows of lineage that were restored from recipes: {changed}")


def _derived(context: RepairContext, plain: Collection[ChunkId]) -> Iterator[tuple[ChunkId, Chunk]]:
    for key, record in context.rows(Table.CHUNKS):
        chunk = ChunkId(number_of(key))
        if record.kind is ChunkKind.DERIVED and chunk not in plain:
            yield chunk, record


# -- reporting


def report(context: RepairContext, changes: Changes) -> None:
    """Report the chunks that were restored, and those that are lost, by pack."""
    if changes.restored:
        context.repaired(f"chunks that were found again in the packs: {changes.restored}")
    by_chunk = impacts(context.view(), changes.lost) if changes.lost else {}
    for pack in sorted({record.pack for record in changes.lost.values()}):
        chunks = [chunk for chunk, record in changes.lost.items() if record.pack == pack]
        size = sum(changes.lost[chunk].size for chunk in chunks)
        hurt = [by_chunk[chunk] for chunk in chunks]
        derived = sum(impact.derived for impact in hurt)
        context.quarantined(
            f"chunks in pack {pack} that are lost: {len(chunks)}, of {size} bytes"
            + (f"; chunks that derive from them: {derived}" if derived else ""),
            dict.fromkeys(path for impact in hurt for path in impact.files),
            dict.fromkeys(name for impact in hurt for name in impact.tensors),
        )
