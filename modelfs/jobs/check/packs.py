"""Invariants of packs: chunks lie where the index has them, and their bytes are intact."""

import contextlib
import os
from collections.abc import Collection, Iterator

from modelfs.errors import CorruptChunk, CorruptPack
from modelfs.jobs.check.findings import Finding, Severity
from modelfs.jobs.check.impact import chunk_finding, chunk_findings
from modelfs.jobs.check.lineage import recipe_problem
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.check.view import CheckView
from modelfs.jobs.steps import Progress
from modelfs.store.chunks.form import form_problem
from modelfs.store.index.chunk_records import Chunk, ChunkKind, PackRow
from modelfs.store.index.tables import KEY_MAX, ChunkId, PackId, Table, number_key
from modelfs.store.packs.segment import PAGE, Entry


def pack_files_are_there(view: CheckView, _: Reported) -> Iterator[Finding | Reported]:
    """A pack's file is this store's, and has all bytes that the index records as committed."""
    for pack, row in view.packs():
        try:
            view.store.packs.check_header(PackId(pack))
            length = os.fstat(view.store.packs.descriptor(PackId(pack)).fd).st_size
        except PermissionError:
            raise  # the check's trouble, not the store's
        except (CorruptPack, OSError) as exc:
            yield Reported(lost_packs={pack: 0})
            # Unless a daemon has deleted it since the check began.
            if view.is_current(Table.PACKS, number_key(pack)):
                yield chunk_finding(view, "pack-file", str(exc), _chunks_behind(view, pack, -1))
            continue
        if length < row.stop:
            message = f"pack {pack} ends at {length}, before its last committed byte, {row.stop}"
            yield Reported(lost_packs={pack: length})
            yield chunk_finding(view, "pack-file", message, _chunks_behind(view, pack, length))


def _chunks_behind(view: CheckView, pack: int, length: int) -> Collection[ChunkId]:
    chunks = view.counts.chunks_by_pack.get(pack, ())
    records = ((chunk, view.chunk(chunk)) for chunk in chunks)
    return [chunk for chunk, record in records if record is not None and _stop(record) > length]


def _stop(record: Chunk) -> int:
    return record.offset + record.stored


def packs_without_a_row_have_nothing(view: CheckView, _: Reported) -> Iterator[Finding]:
    """No pack file without a row has chunks that are recorded as lost."""
    # By number and checksum: after the loss of a commit, a number may be allocated again.
    lost = {(chunk, record.checksum) for chunk, record in view.chunks() if record.is_lost}
    with_row = {PackId(pack) for pack, _row in view.packs()}
    for pack in sorted(view.store.packs.numbers() - with_row) if lost else ():
        in_pack: set[tuple[ChunkId, int]] = set()
        with contextlib.suppress(CorruptPack, ValueError, OSError):
            for entry in view.store.packs.entries(pack, view.store.packs.size(pack)):
                in_pack.add((entry.chunk, entry.checksum))
        if chunks := {chunk for chunk, _checksum in lost & in_pack}:
            message = f"pack {pack} is back, and {len(chunks)} chunks in it are recorded as lost"
            yield chunk_finding(view, "pack-back", message, chunks)


def places_are_sound(view: CheckView, _: Reported) -> Iterator[Finding]:
    """Chunks lie inside the committed part of a pack and do not overlap."""
    rows = dict(view.packs())
    problems: dict[ChunkId, str] = {}
    for pack, chunks in sorted(view.counts.chunks_by_pack.items()):
        if pack in rows:
            problems.update(_misplaced(view, pack, rows[pack]))
        elif number_key(pack) not in view.broken[Table.PACKS]:
            message = f"{len(chunks)} chunks lie in pack {pack}, which the index does not have"
            yield chunk_finding(view, "place", message, chunks)
    yield from chunk_findings(view, "place", problems)


def _misplaced(view: CheckView, pack: int, row: PackRow) -> Iterator[tuple[ChunkId, str]]:
    reached = PAGE
    for chunk, record in _by_place(view, pack):
        stop = _stop(record)
        place = f"chunk {chunk} lies at {record.offset} to {stop} of pack {pack}"
        if record.offset < PAGE or stop > row.stop:
            yield chunk, f"{place}, whose committed part is {PAGE} to {row.stop}"
        elif record.offset < reached:
            yield chunk, f"{place}, overlapping the chunk before it, which ends at {reached}"
        else:
            reached = stop


def _by_place(view: CheckView, pack: int) -> list[tuple[ChunkId, Chunk]]:
    chunks = view.counts.chunks_by_pack.get(pack, ())
    records = ((chunk, view.chunk(chunk)) for chunk in chunks)
    present = [(chunk, record) for chunk, record in records if record is not None]
    return sorted(present, key=lambda row: row[1].offset)


def segment_tables_agree(view: CheckView, reported: Reported) -> Iterator[Finding]:
    """A pack's own tables have the same entries of its chunks as the index."""
    problems: dict[ChunkId, str] = {}
    for pack, row in view.packs():
        if pack in reported.lost_packs:
            continue
        try:
            entries = set(view.store.packs.entries(PackId(pack), row.stop))
        except (CorruptPack, ValueError, OSError) as exc:
            yield Finding("segment", str(exc), severity=Severity.ACCOUNT)
            continue
        for chunk, record in _by_place(view, pack):
            if entry_of(chunk, record) not in entries:
                problems[chunk] = (
                    f"the tables of pack {pack} differ from the record of chunk {chunk}"
                )
    yield from chunk_findings(view, "segment-chunk", problems)


def entry_of(chunk: ChunkId, record: Chunk) -> Entry:
    """Return the entry that the table of a segment has for a chunk."""
    return Entry(
        chunk,
        record.offset,
        record.stored,
        record.size,
        record.kind,
        record.codec,
        record.checksum,
    )


def live_bytes_are_right(view: CheckView, _: Reported) -> Iterator[Finding]:
    """A pack's row has the number of bytes of used chunks in it."""
    if view.broken[Table.CHUNKS]:
        return  # broken rows cannot be counted
    for pack, row in view.packs():
        live = view.counts.live_bytes.get(pack, 0)
        if row.live != live:
            message = f"{live} bytes of pack {pack} are live; its row says {row.live}"
            # A pack without live bytes is deleted.
            severity = Severity.DAMAGE if row.live < live else Severity.ACCOUNT
            yield Finding("pack-live", message, severity=severity)


def contents_are_intact(
    view: CheckView, reported: Reported, progress: Progress
) -> Iterator[Finding | Reported]:
    """The stored bytes of every used chunk match their checksum, decode, and match their hash.

    A recipe has the same sources as the rows of lineage. `progress` gets the stored bytes that were
    read so far, and those of all used chunks. Damage that is reported already is passed over.
    """
    done, total = 0, sum(view.counts.live_bytes.values())
    unreadable = reported.endless | reported.baseless
    problems: dict[ChunkId, str] = {}
    for pack in sorted(view.counts.chunks_by_pack):
        for chunk, record in _by_place(view, pack):
            is_cut_off = _stop(record) > reported.lost_packs.get(pack, KEY_MAX)
            # A record with an impossible form might ask for any amount of memory.
            is_impossible = form_problem(record, view.store.superblock.chunk_size) is not None
            if not record.alive or is_cut_off or is_impossible:
                continue
            try:
                if chunk not in unreadable:
                    problem = _content_problem(view, chunk, record)
                    if problem is not None:
                        problems[chunk] = problem
                done += record.stored
                progress(done, total)
            except KeyboardInterrupt:
                yield from chunk_findings(view, "content", problems)
                raise
    yield Reported(damaged=frozenset(problems))
    yield from chunk_findings(view, "content", problems)


def _content_problem(view: CheckView, chunk: ChunkId, record: Chunk) -> str | None:
    try:
        view.store.chunk_reader.check(chunk, record)
    except (CorruptChunk, OSError) as exc:
        if isinstance(exc, CorruptChunk) and exc.base != chunk:
            return None  # the base has a finding of its own, or is recorded as lost
        problem: str | None = str(exc)
    else:
        is_derived = record.kind is ChunkKind.DERIVED
        problem = recipe_problem(view, chunk, record) if is_derived else None
    # A daemon may have moved the chunk since the check began; gc verified it then.
    return problem if view.is_current(Table.CHUNKS, number_key(chunk)) else None
