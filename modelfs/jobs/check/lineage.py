"""Invariants of derived chunks: what needs what, both ways, and what nobody else needs.

That a chunk derives from another is told by two rows, one for each way to ask. What either of them
says counts for the other invariants here; that one of them is missing is a finding of its own.
"""

from collections.abc import Iterator
from typing import Final

from modelfs.errors import CorruptChunk
from modelfs.jobs.check.view import CheckView, Finding, Severity
from modelfs.store.chunks.lineage import CHAIN_MAX
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.decoders import decode_mark
from modelfs.store.index.tables import ChunkId, Table, number_key, pair_key

ENDLESS: Final = 1 << 62  # as the length of a chain


def links_agree(view: CheckView) -> Iterator[Finding]:
    """What derives from what is told both ways."""
    tables = (Table.SOURCES, Table.DEPENDANTS), (Table.DEPENDANTS, Table.SOURCES)
    for told, asked in tables:
        for one, other in view.linked(told):
            if not view.has(asked, pair_key(other, one)):
                chunk, source = (one, other) if told is Table.SOURCES else (other, one)
                message = f"chunk {chunk} derives from {source}, which {asked.value} do not tell"
                view.lineage_doubtful = True
                yield Finding("links-agree", message, severity=Severity.ACCOUNT)


def links_lead_to_chunks(view: CheckView) -> Iterator[Finding]:
    """What is derived exists, and so does what it derives from."""
    orphaned: dict[ChunkId, str] = {}
    for chunk, source in view.links():
        if not view.has(Table.CHUNKS, number_key(chunk)):
            message = f"chunk {chunk} derives from {source}, but does not exist"
            view.lineage_doubtful = True
            yield Finding("link-chunk", message, severity=Severity.ACCOUNT)
        elif not view.has(Table.CHUNKS, number_key(source)):
            orphaned[chunk] = f"chunk {chunk} derives from {source}, which does not exist"
    view.baseless.update(orphaned)
    yield from view.chunk_findings("link-chunk", orphaned)


def derived_chunks_have_sources(view: CheckView) -> Iterator[Finding]:
    """A derived chunk has sources, and no other chunk has."""
    problems: dict[ChunkId, str] = {}
    for chunk, record in view.chunks():
        is_derived = record.kind is ChunkKind.DERIVED
        if is_derived == (chunk in view.links_of.derived):
            continue
        if is_derived:
            # Nothing keeps what it needs from being removed.
            problems[chunk] = f"chunk {chunk} is derived, but no source of it is told"
        else:
            view.lineage_doubtful = True
            message = f"chunk {chunk} has sources, but is {record.form}"
            yield Finding("derived", message, severity=Severity.ACCOUNT)
    view.lineage_doubtful |= bool(problems)
    yield from view.chunk_findings("derived", problems)


def pins_are_right(view: CheckView) -> Iterator[Finding]:
    """A chunk's record says how many chunks derive from it."""
    for chunk, record in view.chunks():
        pins = view.links_of.pins.get(chunk, 0)
        if record.dependants != pins:
            message = (
                f"{pins} chunks derive from chunk {chunk}; its record says {record.dependants}"
            )
            # Too few, and gc removes a chunk that others need.
            severity = Severity.DAMAGE if record.dependants < pins else Severity.ACCOUNT
            yield Finding("chunk-pins", message, severity=severity)


def held_chunks_are_listed(view: CheckView) -> Iterator[Finding]:
    """A chunk is in the table of the held if, and only if, nothing but other chunks need it."""
    for chunk, record in view.chunks():
        if view.has(Table.BASE_ONLY, number_key(chunk)) != record.base_only:
            state = "held and is not" if record.base_only else "not held and is"
            message = f"chunk {chunk} is {state} listed as held"
            yield Finding("held", message, severity=Severity.ACCOUNT)
    for key, chunk_number in view.rows(Table.BASE_ONLY, decode_mark):
        if not view.has(Table.CHUNKS, key):
            message = f"chunk {chunk_number} is listed as held, but does not exist"
            yield Finding("held", message, severity=Severity.ACCOUNT)


def chains_end(view: CheckView) -> Iterator[Finding]:
    """Every chunk comes down to stored bytes, in few steps."""
    lengths: dict[ChunkId, int] = {}
    for chunk in view.links_of.derived:
        _measure(view, chunk, lengths)
    view.endless.update(chunk for chunk, length in lengths.items() if length == ENDLESS)
    problems = {
        chunk: f"chunk {chunk} derives from itself, or from one that does" for chunk in view.endless
    }
    for chunk, length in lengths.items():
        if CHAIN_MAX < length < ENDLESS:
            view.too_long.add(chunk)
            message = f"chunk {chunk} is {length} derivations away from stored bytes"
            yield Finding("chain", message, severity=Severity.ACCOUNT)
    yield from view.chunk_findings("chain", problems)


def _measure(view: CheckView, chunk: ChunkId, lengths: dict[ChunkId, int]) -> None:
    # Depth first, with a stack of its own: a chain that is damaged may have any length.
    stack = [chunk]
    under_way: set[ChunkId] = set()
    while stack:
        chunk = stack[-1]
        sources = [] if chunk in lengths else view.sources(chunk)
        missing = [each for each in sources if each not in lengths]
        if chunk not in lengths and missing and chunk not in under_way:
            under_way.add(chunk)
            stack += missing
            continue
        stack.pop()
        # What is missing the second time is under way itself, above on the stack.
        longest = max((lengths.get(each, ENDLESS) for each in sources), default=-1)
        lengths.setdefault(chunk, min(longest + 1, ENDLESS))


def recipe_problem(view: CheckView, chunk: ChunkId, record: Chunk) -> str | None:
    """Return what a derived chunk's recipe tells otherwise than the index; None if nothing."""
    try:
        sources = set(view.store.chunk_reader.recipe(chunk, record).sources)
    except (CorruptChunk, OSError) as exc:
        return str(exc)
    told = set(view.sources(chunk))
    for source in sources - told:
        if not view.has(Table.DEPENDANTS, pair_key(source, chunk)):
            return f"chunk {chunk} derives from {source}, of which the index does not know"
    if told - sources:
        return f"chunk {chunk} does not derive from {min(told - sources)}, as the index says"
    return None
