"""Invariants of file maps and chunk records: what uses what, and how often."""

import stat
from collections.abc import Iterator

from modelfs.codecs import CODECS, DERIVATIONS
from modelfs.codecs.base import CodecId
from modelfs.jobs.check.view import CheckView, Finding, Severity
from modelfs.store.index.chunk_records import UNKNOWN, Chunk, ChunkKind
from modelfs.store.index.decoders import decode_hash, decode_mark, decode_number
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import KEY_MAX, ChunkId, InodeNumber, Table, number_key


def extents_are_sound(view: CheckView) -> Iterator[Finding]:
    """An extent lies inside an existing chunk, in a regular file, and overlaps no other."""
    seen = _File(view, InodeNumber(0))
    for inode, extent in view.extents():
        if inode != seen.inode:
            seen = _File(view, inode)
            if not seen.is_regular:
                message = f"inode {inode} has content, but is no regular file"
                yield Finding("extent-file", message, (view.path(inode),))
        if (found := seen.problem(extent)) is not None:
            invariant, problem = found
            yield Finding(
                invariant,
                f"extent at {extent.start} of inode {inode}: {problem}",
                (view.path(inode),),
                tuple(view.tensors(inode, extent.start, extent.stop)),
            )


class _File:
    """What the extents of one file are held against."""

    def __init__(self, view: CheckView, inode: InodeNumber) -> None:
        self._view = view
        self.inode = inode
        self._reached = 0
        node = view.inode(inode)
        key = number_key(inode)
        readable = key not in view.broken[Table.INODES]
        self.is_regular = (node is not None and stat.S_ISREG(node.mode)) or not readable
        cut_unknown = key in view.broken[Table.TRIMS]
        self._size = KEY_MAX if node is None or cut_unknown else node.size
        trim = view.find(Table.TRIMS, key, decode_number)
        self._visible = KEY_MAX if trim is None else trim

    def problem(self, extent: Extent) -> tuple[str, str] | None:
        """Return the invariant that an extent breaks and how, None if it is sound."""
        reached, self._reached = self._reached, max(self._reached, extent.stop)
        if not self._view.has(Table.CHUNKS, number_key(extent.chunk)):
            return "extent-chunk", f"chunk {extent.chunk} does not exist"
        record = self._view.chunk(extent.chunk)
        if record is not None and extent.skip + extent.length > record.size:
            return "extent-inside", f"it reaches past the end of chunk {extent.chunk}"
        if extent.start < reached:
            return "extent-overlap", "it overlaps the one before it"
        if min(extent.stop, self._visible) > self._size:
            return "extent-size", f"it reaches past the file's size, {self._size}"
        return None


def uses_are_right(view: CheckView) -> Iterator[Finding]:
    """A chunk's use counts are what its extents add up to."""
    if view.broken[Table.EXTENTS]:
        return  # what does not decode cannot be counted
    usage = view.usage
    for chunk, record in view.chunks():
        uses, used = usage.uses.get(chunk, 0), usage.used.get(chunk, 0)
        if (record.refs, record.ref_bytes) != (uses, used):
            message = (
                f"chunk {chunk} is used {uses} times, {used} bytes; its record says "
                f"{record.refs} times, {record.ref_bytes} bytes"
            )
            # Too few uses, and gc removes a chunk that a file needs.
            severity = Severity.DAMAGE if record.refs < uses else Severity.ACCOUNT
            yield Finding("chunk-uses", message, severity=severity)


def maps_are_complete(view: CheckView) -> Iterator[Finding]:
    """No file has a hole that may be where an extent was which the chunks still count."""
    if view.broken[Table.EXTENTS] or not view.missing:
        return
    for inode, start, stop in view.holes(view.missing):
        message = f"the hole at {start} to {stop} of inode {inode} may be an extent that is missing"
        tensors = tuple(view.tensors(inode, start, stop))
        yield Finding("map-hole", message, (view.path(inode),), tensors)


def dead_chunks_are_listed(view: CheckView) -> Iterator[Finding]:
    """A chunk is in the table of the dead if, and only if, nothing needs it."""
    for chunk, record in view.chunks():
        if view.has(Table.DEAD, number_key(chunk)) == record.alive:
            state = "needed and is" if record.alive else "not needed and is not"
            message = f"chunk {chunk} is {state} listed as dead"
            severity = Severity.DAMAGE if record.alive else Severity.ACCOUNT
            yield Finding("dead", message, severity=severity)
    for key, chunk_number in view.rows(Table.DEAD, decode_mark):
        if not view.has(Table.CHUNKS, key):
            message = f"chunk {chunk_number} is listed as dead, but does not exist"
            yield Finding("dead", message, severity=Severity.ACCOUNT)


def hashes_find_chunks(view: CheckView) -> Iterator[Finding]:
    """A chunk is found by the hash of its content, and by no other."""
    reported: set[ChunkId] = set()
    for chunk, record in view.chunks():
        if record.is_lost and record.digest == UNKNOWN:
            continue
        listed = view.find(Table.HASHES, record.digest, decode_hash) or []
        if chunk not in listed and record.digest not in view.broken[Table.HASHES]:
            reported.add(chunk)
            message = f"chunk {chunk} is not found by its hash {record.digest.hex()}"
            yield Finding("hash", message, severity=Severity.ACCOUNT)
    for digest, chunks in view.rows(Table.HASHES, decode_hash):
        for chunk in chunks:
            if chunk not in reported and not _has_digest(view, chunk, digest):
                message = f"hash {digest.hex()} leads to chunk {chunk}, which has another or none"
                yield Finding("hash", message, severity=Severity.ACCOUNT)


def _has_digest(view: CheckView, chunk: ChunkId, digest: bytes) -> bool:
    record = view.chunk(chunk)
    if record is None:
        return number_key(chunk) in view.broken[Table.CHUNKS]
    return record.digest == digest


def forms_are_possible(view: CheckView) -> Iterator[Finding]:
    """A chunk's kind, codec and sizes go together."""
    problems = {
        chunk: f"chunk {chunk}: {problem}"
        for chunk, record in view.chunks()
        if (problem := form_problem(record, view.store.superblock.chunk_size)) is not None
    }
    yield from view.chunk_findings("chunk-form", problems)


def _lost_problem(record: Chunk) -> str | None:
    return (
        "it is lost, but has a place" if any((record.pack, record.offset, record.stored)) else None
    )


def _go_together(kind: ChunkKind, codec: CodecId) -> bool:
    if kind is ChunkKind.DERIVED:
        return codec in DERIVATIONS
    return codec is CodecId.RAW if kind is ChunkKind.PLAIN else codec in CODECS


def form_problem(record: Chunk, chunk_size: int) -> str | None:
    """Return what is wrong with a record in itself, None if nothing is."""
    if not 0 < record.size <= chunk_size:
        return f"its size is {record.size}"
    if record.is_lost:
        return _lost_problem(record)
    if not _go_together(record.kind, record.codec):
        return f"a {record.kind.name} chunk with codec {record.codec.name}"
    if record.stored > record.size:
        return f"{record.size} bytes stored in {record.stored}"
    if record.kind is ChunkKind.PLAIN and record.stored != record.size:
        return f"{record.size} plain bytes stored in {record.stored}"
    return None
