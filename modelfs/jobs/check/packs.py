"""Invariants of packs: the stored bytes are where the index says, and are what they were."""

import contextlib
import os
from collections.abc import Callable, Iterator

from modelfs.errors import CorruptChunk, CorruptPack
from modelfs.jobs.check.chunks import form_problem
from modelfs.jobs.check.lineage import recipe_problem
from modelfs.jobs.check.view import CheckView, Finding, Severity
from modelfs.store.index.chunk_records import Chunk, ChunkKind, PackRow
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key
from modelfs.store.packs.segment import PAGE, Entry

Progress = Callable[[int, int], None]


def pack_files_are_there(view: CheckView) -> Iterator[Finding]:
    """A pack's file is this store's, and holds at least what the index vouches for."""
    for pack, row in view.packs():
        try:
            view.store.packs.check_header(PackId(pack))
            length = os.fstat(view.store.packs.descriptor(PackId(pack)).fd).st_size
        except (CorruptPack, OSError) as exc:
            if view.is_current(Table.PACKS, number_key(pack)):
                yield _lost(view, pack, str(exc))
            else:
                view.lost_packs[pack] = 0  # deleted by a daemon since the check began
            continue
        if length < row.stop:
            message = f"pack {pack} ends at {length}, before its last committed byte, {row.stop}"
            view.lost_packs[pack] = length
            yield view.chunk_finding("pack-file", message, _behind(view, pack, length))


def packs_without_a_row_have_nothing(view: CheckView) -> Iterator[Finding]:
    """No pack file that the index does not know has chunks that are known as lost."""
    # By number and checksum: after the loss of a commit, a number may be given a second time.
    lost = {(chunk, record.checksum) for chunk, record in view.chunks() if record.is_lost}
    known = {PackId(pack) for pack, _ in view.packs()}
    for pack in sorted(view.store.packs.numbers() - known) if lost else ():
        if found := {chunk for chunk, _ in lost.intersection(_named_in(view, pack))}:
            message = f"pack {pack} is back, and {len(found)} chunks in it were taken for lost"
            yield view.chunk_finding("pack-back", message, found)


def _named_in(view: CheckView, pack: PackId) -> Iterator[tuple[ChunkId, int]]:
    with contextlib.suppress(CorruptPack, ValueError, OSError):
        for entry in view.store.packs.entries(pack, view.store.packs.size(pack)):
            yield entry.chunk, entry.checksum


def _lost(view: CheckView, pack: int, message: str) -> Finding:
    view.lost_packs[pack] = 0
    return view.chunk_finding("pack-file", message, frozenset(view.census.packed.get(pack, ())))


def _behind(view: CheckView, pack: int, length: int) -> frozenset[ChunkId]:
    return frozenset(
        chunk
        for chunk in view.census.packed.get(pack, ())
        if (record := view.chunk(chunk)) is not None and record.offset + record.stored > length
    )


def places_are_sound(view: CheckView) -> Iterator[Finding]:
    """Chunks lie inside the committed part of a pack and do not overlap."""
    rows = dict(view.packs())
    problems: dict[ChunkId, str] = {}
    for pack in sorted(view.census.packed):
        if pack in rows:
            problems.update(_misplaced(view, pack, rows[pack]))
        elif number_key(pack) not in view.broken[Table.PACKS]:
            chunks = frozenset(view.census.packed[pack])
            message = f"{len(chunks)} chunks lie in pack {pack}, which the index does not have"
            yield view.chunk_finding("place", message, chunks)
    yield from view.chunk_findings("place", problems)


def _misplaced(view: CheckView, pack: int, row: PackRow) -> Iterator[tuple[ChunkId, str]]:
    reached = PAGE
    for chunk, record in _by_place(view, pack):
        stop = record.offset + record.stored
        place = f"chunk {chunk} lies at {record.offset} to {stop} of pack {pack}"
        if record.offset < PAGE or stop > row.stop:
            yield chunk, f"{place}, whose committed part is {PAGE} to {row.stop}"
        elif record.offset < reached:
            yield chunk, f"{place}, overlapping the chunk before it, which ends at {reached}"
        else:
            reached = stop


def _by_place(view: CheckView, pack: int) -> list[tuple[ChunkId, Chunk]]:
    records = ((chunk, view.chunk(chunk)) for chunk in view.census.packed.get(pack, ()))
    found = [(chunk, record) for chunk, record in records if record is not None]
    return sorted(found, key=lambda each: each[1].offset)


def segment_tables_agree(view: CheckView) -> Iterator[Finding]:
    """A pack's own tables tell of its chunks what the index does."""
    problems: dict[ChunkId, str] = {}
    for pack, row in view.packs():
        if pack in view.lost_packs:
            continue
        try:
            told = set(view.store.packs.entries(PackId(pack), row.stop))
        except (CorruptPack, ValueError, OSError) as exc:
            yield Finding("segment", str(exc), severity=Severity.ACCOUNT)
            continue
        for chunk, record in _by_place(view, pack):
            if entry_of(chunk, record) not in told:
                problems[chunk] = f"the tables of pack {pack} tell otherwise of chunk {chunk}"
    yield from view.chunk_findings("segment-chunk", problems)


def entry_of(chunk: ChunkId, record: Chunk) -> Entry:
    """Return what the table of a segment has to say of a chunk."""
    return Entry(
        chunk,
        record.offset,
        record.stored,
        record.size,
        record.kind,
        record.codec,
        record.checksum,
    )


def live_bytes_are_right(view: CheckView) -> Iterator[Finding]:
    """A pack's row says how many bytes of used chunks lie in it."""
    if view.broken[Table.CHUNKS]:
        return  # what does not decode cannot be counted
    for pack, row in view.packs():
        live = view.census.live.get(pack, 0)
        if row.live != live:
            message = f"{live} bytes of pack {pack} are live; its row says {row.live}"
            # A pack that is said to have no live bytes is deleted.
            severity = Severity.DAMAGE if row.live < live else Severity.ACCOUNT
            yield Finding("pack-live", message, severity=severity)


def contents_are_intact(view: CheckView, progress: Progress | None = None) -> Iterator[Finding]:
    """The stored bytes of every used chunk match their checksum, decode, and match their hash.

    A recipe names the sources that the index does.
    """
    total = sum(view.census.live.values())
    problems: dict[ChunkId, str] = {}
    for pack in sorted(view.census.packed):
        for chunk, record in _by_place(view, pack):
            if not record.alive or _is_lost(view, record) or not _is_possible(view, record):
                continue
            if (problem := _content_problem(view, chunk, record)) is not None:
                problems[chunk] = problem
            view.bytes_checked += record.stored
            if progress is not None:
                progress(view.bytes_checked, total)
    view.damaged.update(problems)
    yield from view.chunk_findings("content", problems)


def _is_possible(view: CheckView, record: Chunk) -> bool:
    # What is not was reported, and might ask for any amount of memory.
    return form_problem(record, view.store.superblock.chunk_size) is None


def _is_lost(view: CheckView, record: Chunk) -> bool:
    known = view.lost_packs.get(record.pack)
    return known is not None and record.offset + record.stored > known


def _content_problem(view: CheckView, chunk: ChunkId, record: Chunk) -> str | None:
    if chunk in view.endless or chunk in view.baseless:
        return None  # reported already
    try:
        view.store.chunk_reader.check_content(chunk, record)
    except (CorruptChunk, OSError) as exc:
        if isinstance(exc, CorruptChunk) and exc.base != chunk:
            return None  # that one is reported, with whom it hurts, or is known as lost
        problem: str | None = str(exc)
    else:
        is_derived = record.kind is ChunkKind.DERIVED
        problem = recipe_problem(view, chunk, record) if is_derived else None
    # A daemon may have moved the chunk since the check began; gc verified it then.
    return problem if view.is_current(Table.CHUNKS, number_key(chunk)) else None
