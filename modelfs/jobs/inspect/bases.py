"""The sources of a file's derived chunks, and the chunks of it that other files derive from."""

from collections.abc import Collection, Iterable, Mapping

from modelfs.store.chunks.lineage import Lineage
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId

Records = Mapping[ChunkId, Chunk | None]  # None: the chunk is missing
Sources = Mapping[ChunkId, list[ChunkId]]


def sources_of(lineage: Lineage, records: Records) -> Sources:
    """Return the sources of each derived chunk."""
    return {
        chunk: lineage.sources(chunk)
        for chunk, record in records.items()
        if record is not None and record.kind is ChunkKind.DERIVED
    }


def in_files(chunks: ChunkTable, sources: Iterable[ChunkId]) -> set[ChunkId]:
    """Return those of some sources that a file has, and not only other chunks' recipes."""
    records = ((source, chunks.find(source)) for source in sources)
    return {source for source, record in records if record is not None and record.refs}


def derived_elsewhere(chunks: ChunkTable, records: Records) -> dict[ChunkId, int]:
    """Return the other chunks that derive from a file's chunks, with their number of extents."""
    uses: dict[ChunkId, int] = {}
    for chunk, record in records.items():
        if record is not None and record.dependants:
            for derived in chunks.lineage.descendants(chunk):
                if derived not in records and derived not in uses:
                    found = chunks.find(derived)
                    uses[derived] = 0 if found is None else found.refs
    return {chunk: refs for chunk, refs in uses.items() if refs}


def needed_elsewhere(
    lineage: Lineage, records: Records, sources: Sources, foreign: Collection[ChunkId]
) -> set[ChunkId]:
    """Return the chunks of a file that stay when the file goes.

    Args:
        lineage: of the store.
        records: of the file's chunks.
        sources: of those of them that are derived.
        foreign: those of them that other files have, too.
    """
    needed = set(foreign)
    needed.update(
        chunk
        for chunk, record in records.items()
        if record is not None
        and record.dependants
        and any(dependant not in records for dependant in lineage.dependants(chunk))
    )
    pending = list(needed)
    while pending:
        for source in sources.get(pending.pop(), ()):
            if source in records and source not in needed:
                needed.add(source)
                pending.append(source)
    return needed
