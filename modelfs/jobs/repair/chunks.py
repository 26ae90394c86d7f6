"""Repair of chunks and packs: every chunk that can be read is put in a safe place.

1. *Suspects.* A record is believed if the table of its segment, in a whole pack, has just the same.
   Suspect are all other records, the chunks that the check found damaged, and the chunks that are
   needed and have no record.
2. *Verdicts.* An intact copy of each suspect is looked for: see `verdicts`. Its record is put into
   the index. A chunk without one is recorded as lost; if its own bytes are damaged, they go to
   quarantine.
3. *Lineage.* The rows of which chunk derives from which are restored from the recipes.
4. *Places.* Chunks in damaged packs, or in places that no segment table has, are copied to a new
   pack, and `repair_pack_rows` removes the old packs.

Example. Pack 1 has chunks 1, 2 and 3, its segment table is damaged, and the row of chunk 2 is
junk::

    suspects    1, 3       no table has their records
                2          an extent needs it, and its row was set aside
    verdicts    1, 3       Intact: their bytes have the hashes of their records
                2          Bad: no table has its place; it has no record, and none is made
    places      1, 3       copied to pack 2; pack 1 goes to quarantine, whole

The ranges of files that had chunk 2 are lost when the maps are repaired, after this.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from modelfs.errors import CorruptChunk, CorruptData
from modelfs.jobs.check.impact import impacts
from modelfs.jobs.repair.context import RepairContext
from modelfs.jobs.repair.evidence import Bad, Evidence, Needs, Verdict
from modelfs.jobs.repair.pack_files import read_segment_tables
from modelfs.jobs.repair.pack_rows import repair_pack_rows
from modelfs.jobs.repair.relocate import relocate
from modelfs.jobs.repair.verdicts import resolve
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key, number_of, pair_key

# If a row of these tables does not decode, it is open which chunk derives from which.
LINEAGE: Final = (Table.CHUNKS, Table.SOURCES, Table.DEPENDANTS)


@dataclass(slots=True)
class Changes:
    """The results of the verdicts so far."""

    needed: set[ChunkId]  # by extents, or by recipes
    restored: int = 0  # records that were wrong
    lost: dict[ChunkId, Chunk] = field(default_factory=dict)  # with their records before the loss
    unsafe: dict[ChunkId, Chunk] = field(default_factory=dict)  # intact, but in no safe place


def repair_chunks(context: RepairContext) -> None:
    """Let every chunk that is needed be in the place of its record, or be lost."""
    view, reported = context.view(), context.reported
    changes = Changes(view.references.extents.keys() | view.derivations.dependants.keys())
    evidence = collect_evidence(context)
    in_doubt = list(suspects(context, evidence, changes.needed))
    apply(context, evidence, resolve(evidence, in_doubt), changes)
    plain = {chunk for chunk in reported.too_long if _is_readable(context, chunk)}
    lineage_doubtful = (
        reported.lineage_doubtful
        or reported.baseless
        or reported.too_long
        or any(context.reported.broken[table] for table in LINEAGE)
    )
    if in_doubt or lineage_doubtful:
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
    """Read the segment tables of all packs that exist, or that a row mentions."""
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
    # If one of them cannot be read, its sources are in doubt: `resolve` makes them suspects, too.
    reported |= {chunk for chunk in context.reported.too_long if not _is_readable(context, chunk)}
    for chunk, record in context.view().chunks():
        missing.discard(chunk)
        if chunk in reported or _is_suspect(evidence, chunk, record):
            yield chunk
    yield from sorted(missing)


def _is_suspect(evidence: Evidence, chunk: ChunkId, record: Chunk) -> bool:
    """Return whether a record contradicts itself, the segment tables or the hashes."""
    if evidence.form_problem(record) is not None:
        return True
    if record.is_lost:
        # A pack may have been missing when it was lost, and be back.
        return any(state.has(chunk) for state in evidence.packs.values())
    is_listed = chunk in evidence.store.chunks.with_digest(record.digest)
    return not is_listed or not evidence.is_safe(chunk, record)


def apply(
    context: RepairContext,
    evidence: Evidence,
    verdicts: Mapping[ChunkId, Verdict],
    changes: Changes,
) -> None:
    """Put the records of the verdicts into the index, and note the changes."""
    needs = (verdict for verdict in verdicts.values() if isinstance(verdict, Needs))
    changes.needed |= {verdict.source for verdict in needs}
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
    """Record a chunk as lost if it is needed, or remove its record; keep its stored bytes."""
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
        context.drop(Table.CHUNKS, number_key(chunk), "damaged, without an intact copy")
    if chunk in changes.needed:
        changes.lost[chunk] = record
    else:
        context.repaired(f"chunk {chunk} was damaged, and no file uses it: removed")


# -- lineage


def relink(
    context: RepairContext, evidence: Evidence, changes: Changes, plain: Collection[ChunkId]
) -> None:
    """Restore the rows of lineage from the recipes, without those of chunks that become `plain`.

    Chunks whose recipes cannot be read, or name sources that have no record, become suspect, and so
    do these sources. The second time such a chunk is lost.
    """
    sources: dict[ChunkId, tuple[ChunkId, ...]] = {}
    judged: set[ChunkId] = set()
    while unread := [
        (chunk, record)
        for chunk, record in context.view().chunks()
        if record.kind is ChunkKind.DERIVED and chunk not in plain and chunk not in sources
    ]:
        doubtful: set[ChunkId] = set()
        for chunk, record in unread:
            try:
                sources[chunk] = context.store.stored_bytes.recipe(chunk, record).sources
            except (CorruptChunk, OSError):
                doubtful.add(chunk)
        changes.needed.update(*sources.values())
        all_sources = set().union(*sources.values())
        missing = {source for source in all_sources if context.store.chunks.find(source) is None}
        doubtful |= missing
        doubtful |= {chunk for chunk, named in sources.items() if missing.intersection(named)}
        verdicts: dict[ChunkId, Verdict] = resolve(evidence, sorted(doubtful - judged))
        verdicts |= dict.fromkeys(sorted(doubtful & judged), Bad())
        apply(context, evidence, verdicts, changes)
        judged |= doubtful
        for chunk in doubtful:
            sources.pop(chunk, None)
    links = [pair_key(chunk, source) for chunk, named in sources.items() for source in named]
    back = [key[8:] + key[:8] for key in links]
    changed = context.replace_rows(Table.SOURCES, dict.fromkeys(links, b""))
    changed += context.replace_rows(Table.DEPENDANTS, dict.fromkeys(back, b""))
    if changed:
        context.repaired(f"rows of lineage restored from recipes: {changed}")


# -- reporting


def report(context: RepairContext, changes: Changes) -> None:
    """Report the chunks that were restored, and those that are lost, by pack."""
    if changes.restored:
        context.repaired(f"chunks found again in the packs: {changes.restored}")
    by_chunk = impacts(context.view(), changes.lost) if changes.lost else {}
    for pack in sorted({record.pack for record in changes.lost.values()}):
        chunks = [chunk for chunk, record in changes.lost.items() if record.pack == pack]
        size = sum(changes.lost[chunk].size for chunk in chunks)
        affected = [by_chunk[chunk] for chunk in chunks]
        derived = sum(impact.derived for impact in affected)
        context.quarantined(
            f"chunks in pack {pack} that are lost: {len(chunks)}, of {size} bytes"
            + (f"; chunks that derive from them: {derived}" if derived else ""),
            dict.fromkeys(path for impact in affected for path in impact.files),
            dict.fromkeys(name for impact in affected for name in impact.tensors),
        )
