"""Invariants of derived chunks: the rows of lineage, the counts that follow, and chains.

A derivation has two rows, one for each way to look it up. For the other invariants either of them
is enough; a missing one is a finding of its own.

Example. Chunk 3 derives from 2, and 2 from 1. SOURCES has the rows (3, 2) and (2, 1), DEPENDANTS
(2, 3) and (1, 2). The chain of chunk 3 has length 2. If the record of chunk 2 has 0 dependants, gc
would remove it once no file uses it: a finding of `dependants_are_counted`.
"""

from collections.abc import Iterator
from typing import Final

from modelfs.errors import CorruptChunk
from modelfs.jobs.check.findings import Finding, Severity
from modelfs.jobs.check.impact import chunk_findings
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.check.view import CheckView
from modelfs.store.chunks.lineage import CHAIN_MAX
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.decoders import decode_base_only
from modelfs.store.index.tables import ChunkId, Table, number_key, pair_key

ENDLESS: Final = 1 << 62  # as the length of a chain


def links_agree(view: CheckView, _: Reported) -> Iterator[Finding | Reported]:
    """Both tables of lineage have the same derivations."""
    tables = (Table.SOURCES, Table.DEPENDANTS), (Table.DEPENDANTS, Table.SOURCES)
    for table, other_table in tables:
        for one, other in view.linked(table):
            if not view.has(other_table, pair_key(other, one)):
                chunk, source = (one, other) if table is Table.SOURCES else (other, one)
                message = (
                    f"chunk {chunk} derives from {source}, without a row in {other_table.value}"
                )
                yield Reported(lineage_doubtful=True)
                yield Finding("links-agree", message, severity=Severity.ACCOUNT)


def links_lead_to_chunks(view: CheckView, _: Reported) -> Iterator[Finding | Reported]:
    """A derived chunk exists, and so do its sources."""
    baseless: dict[ChunkId, str] = {}
    for chunk, source in view.links():
        if not view.has(Table.CHUNKS, number_key(chunk)):
            message = f"chunk {chunk} derives from {source}, but does not exist"
            yield Reported(lineage_doubtful=True)
            yield Finding("link-chunk", message, severity=Severity.ACCOUNT)
        elif not view.has(Table.CHUNKS, number_key(source)):
            baseless[chunk] = f"chunk {chunk} derives from {source}, which does not exist"
    yield Reported(baseless=frozenset(baseless))
    yield from chunk_findings(view, "link-chunk", baseless)


def derived_chunks_have_sources(view: CheckView, _: Reported) -> Iterator[Finding | Reported]:
    """A derived chunk has sources, and no other chunk has."""
    problems: dict[ChunkId, str] = {}
    for chunk, record in view.chunks():
        is_derived = record.kind is ChunkKind.DERIVED
        if is_derived == (chunk in view.derivations.derived):
            continue
        if is_derived:
            # Without rows of lineage, gc may remove its sources.
            problems[chunk] = f"chunk {chunk} is derived, but has no row of a source"
        else:
            yield Reported(lineage_doubtful=True)
            message = f"chunk {chunk} has sources, but is {record.form}"
            yield Finding("derived", message, severity=Severity.ACCOUNT)
    yield Reported(lineage_doubtful=bool(problems))
    yield from chunk_findings(view, "derived", problems)


def dependants_are_counted(view: CheckView, _: Reported) -> Iterator[Finding]:
    """A chunk's record has the number of chunks that derive from it."""
    for chunk, record in view.chunks():
        dependants = view.derivations.dependants.get(chunk, 0)
        if record.dependants != dependants:
            message = (
                f"{dependants} chunks derive from chunk {chunk}; "
                f"its record says {record.dependants}"
            )
            # With too few dependants, gc removes a chunk that others need.
            severity = Severity.DAMAGE if record.dependants < dependants else Severity.ACCOUNT
            yield Finding("chunk-pins", message, severity=severity)


def base_only_chunks_are_listed(view: CheckView, _: Reported) -> Iterator[Finding]:
    """A chunk is in the table of base-only chunks if, and only if, only other chunks need it."""
    for chunk, record in view.chunks():
        if view.has(Table.BASE_ONLY, number_key(chunk)) != record.base_only:
            state = "base-only and is not" if record.base_only else "not base-only and is"
            message = f"chunk {chunk} is {state} listed as such"
            yield Finding("held", message, severity=Severity.ACCOUNT)
    for key, number in view.rows(Table.BASE_ONLY, decode_base_only):
        if not view.has(Table.CHUNKS, key):
            message = f"chunk {number} is listed as base-only, but does not exist"
            yield Finding("held", message, severity=Severity.ACCOUNT)


def chains_end(view: CheckView, _: Reported) -> Iterator[Finding | Reported]:
    """Every chain of derivations ends in a stored chunk, after at most `CHAIN_MAX` steps.

    A chain that is too long, but ends in a lost chunk, is no finding: repair can shorten it when
    that chunk is stored again.
    """
    lengths: dict[ChunkId, int] = {}
    for chunk in view.derivations.derived:
        _measure_chain(view, chunk, lengths)
    too_long = {chunk for chunk, length in lengths.items() if CHAIN_MAX < length < ENDLESS}
    if too_long:
        lost = [chunk for chunk, record in view.chunks() if record.is_lost]
        too_long.difference_update(*map(view.store.chunks.lineage.descendants, lost))
    for chunk in sorted(too_long):
        message = f"chunk {chunk} is {lengths[chunk]} derivations away from stored bytes"
        yield Finding("chain", message, severity=Severity.ACCOUNT)
    problems = {
        chunk: f"chunk {chunk} derives from itself, or from one that does"
        for chunk, length in sorted(lengths.items())
        if length == ENDLESS
    }
    yield Reported(too_long=frozenset(too_long), endless=frozenset(problems))
    yield from chunk_findings(view, "chain", problems)


def _measure_chain(view: CheckView, chunk: ChunkId, lengths: dict[ChunkId, int]) -> None:
    """Add the lengths of the chains of a chunk and of all chunks that it derives from."""
    # Depth first, with a stack of its own: a damaged chain may have any length.
    stack = [chunk]
    under_way: set[ChunkId] = set()
    while stack:
        chunk = stack[-1]
        sources = [] if chunk in lengths else view.sources(chunk)
        missing = [source for source in sources if source not in lengths]
        if chunk not in lengths and missing and chunk not in under_way:
            under_way.add(chunk)
            stack += missing
            continue
        stack.pop()
        # A source without a length the second time is under way itself, above on the stack.
        longest = max((lengths.get(source, ENDLESS) for source in sources), default=-1)
        lengths.setdefault(chunk, min(longest + 1, ENDLESS))


def recipe_problem(view: CheckView, chunk: ChunkId, record: Chunk) -> str | None:
    """Return how a derived chunk's recipe differs from the rows of lineage, None if it does not."""
    try:
        sources = set(view.store.stored_bytes.recipe(chunk, record).sources)
    except (CorruptChunk, OSError) as exc:
        return str(exc)
    listed = set(view.sources(chunk))
    for source in sources - listed:
        if not view.has(Table.DEPENDANTS, pair_key(source, chunk)):
            return f"chunk {chunk} derives from {source}, of which the index has no row"
    if listed - sources:
        return f"chunk {chunk} does not derive from {min(listed - sources)}, but the index has it"
    return None
