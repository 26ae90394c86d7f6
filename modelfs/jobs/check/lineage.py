"""Invariants of derived chunks: the rows of lineage, the counts that follow, and chains.

A derivation has two rows, one for each way to look it up. Either of them counts for the other
invariants here; that one of them is missing is a finding of its own.
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
from modelfs.store.index.decoders import decode_mark
from modelfs.store.index.tables import ChunkId, Table, number_key, pair_key

ENDLESS: Final = 1 << 62  # as the length of a chain


def links_agree(view: CheckView, reported: Reported) -> Iterator[Finding]:
    """Both tables of lineage have the same derivations."""
    tables = (Table.SOURCES, Table.DEPENDANTS), (Table.DEPENDANTS, Table.SOURCES)
    for table, other_table in tables:
        for one, other in view.linked(table):
            if not view.has(other_table, pair_key(other, one)):
                chunk, source = (one, other) if table is Table.SOURCES else (other, one)
                message = (
                    f"chunk {chunk} derives from {source}, which {other_table.value} do not tell"
                )
                reported.lineage_doubtful = True
                yield Finding("links-agree", message, severity=Severity.ACCOUNT)


def links_lead_to_chunks(view: CheckView, reported: Reported) -> Iterator[Finding]:
    """A derived chunk exists, and so do its sources."""
    baseless: dict[ChunkId, str] = {}
    for chunk, source in view.links():
        if not view.has(Table.CHUNKS, number_key(chunk)):
            message = f"chunk {chunk} derives from {source}, but does not exist"
            reported.lineage_doubtful = True
            yield Finding("link-chunk", message, severity=Severity.ACCOUNT)
        elif not view.has(Table.CHUNKS, number_key(source)):
            baseless[chunk] = f"chunk {chunk} derives from {source}, which does not exist"
    reported.baseless.update(baseless)
    yield from chunk_findings(view, "link-chunk", baseless)


def derived_chunks_have_sources(view: CheckView, reported: Reported) -> Iterator[Finding]:
    """A derived chunk has sources, and no other chunk has."""
    problems: dict[ChunkId, str] = {}
    for chunk, record in view.chunks():
        is_derived = record.kind is ChunkKind.DERIVED
        if is_derived == (chunk in view.derivations.derived):
            continue
        if is_derived:
            # Nothing keeps its sources from being removed.
            problems[chunk] = f"chunk {chunk} is derived, but no source of it is told"
        else:
            reported.lineage_doubtful = True
            message = f"chunk {chunk} has sources, but is {record.form}"
            yield Finding("derived", message, severity=Severity.ACCOUNT)
    reported.lineage_doubtful |= bool(problems)
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
            # Too few, and gc removes a chunk that others need.
            severity = Severity.DAMAGE if record.dependants < dependants else Severity.ACCOUNT
            yield Finding("chunk-pins", message, severity=severity)


def base_only_chunks_are_listed(view: CheckView, _: Reported) -> Iterator[Finding]:
    """A chunk is in the table of bases if, and only if, nothing but other chunks needs it."""
    for chunk, record in view.chunks():
        if view.has(Table.BASE_ONLY, number_key(chunk)) != record.base_only:
            state = "held and is not" if record.base_only else "not held and is"
            message = f"chunk {chunk} is {state} listed as held"
            yield Finding("held", message, severity=Severity.ACCOUNT)
    for key, number in view.rows(Table.BASE_ONLY, decode_mark):
        if not view.has(Table.CHUNKS, key):
            message = f"chunk {number} is listed as held, but does not exist"
            yield Finding("held", message, severity=Severity.ACCOUNT)


def chains_end(view: CheckView, reported: Reported) -> Iterator[Finding]:
    """Every chunk comes down to stored bytes, in few steps.

    A chain that is too long, but ends in a lost chunk, is no finding: it can be shortened when that
    comes back.
    """
    lengths: dict[ChunkId, int] = {}
    for chunk in view.derivations.derived:
        _measure(view, chunk, lengths)
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
    reported.too_long |= too_long
    reported.endless.update(problems)
    yield from chunk_findings(view, "chain", problems)


def _measure(view: CheckView, chunk: ChunkId, lengths: dict[ChunkId, int]) -> None:
    # Depth first, with a stack of its own: a chain that is damaged may have any length.
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
        sources = set(view.store.chunk_reader.recipe(chunk, record).sources)
    except (CorruptChunk, OSError) as exc:
        return str(exc)
    listed = set(view.sources(chunk))
    for source in sources - listed:
        if not view.has(Table.DEPENDANTS, pair_key(source, chunk)):
            return f"chunk {chunk} derives from {source}, of which the index does not know"
    if listed - sources:
        return f"chunk {chunk} does not derive from {min(listed - sources)}, as the index says"
    return None
