"""Invariants of file maps and chunk records: each extent has its chunk, each chunk its counts."""

import stat
from collections.abc import Iterator

from modelfs.jobs.check.findings import Finding, Severity
from modelfs.jobs.check.impact import chunk_findings
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.check.view import CheckView
from modelfs.store.chunks.form import form_problem
from modelfs.store.files.inode_totals import TOTALS_SINCE
from modelfs.store.index.chunk_records import UNKNOWN
from modelfs.store.index.decoders import decode_hash, decode_mark, decode_number
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import KEY_MAX, ChunkId, InodeNumber, Table, number_key


def extents_are_sound(view: CheckView, _: Reported) -> Iterator[Finding]:
    """An extent lies inside an existing chunk, in a regular file, and overlaps no other."""
    file = _FileBounds(view, InodeNumber(0))
    for inode, extent in view.extents():
        if inode != file.inode:
            file = _FileBounds(view, inode)
            if not file.is_regular:
                message = f"inode {inode} has content, but is no regular file"
                yield Finding("extent-file", message, (view.path(inode),))
        if (violation := file.violation(extent)) is not None:
            invariant, problem = violation
            yield Finding(
                invariant,
                f"extent at {extent.start} of inode {inode}: {problem}",
                (view.path(inode),),
                tuple(view.tensors(inode, extent.start, extent.stop)),
            )


class _FileBounds:
    """The bounds of a file's extents, as a walk over them meets them in order."""

    def __init__(self, view: CheckView, inode: InodeNumber) -> None:
        self._view = view
        self.inode = inode
        self._reached = 0
        node = view.inode(inode)
        key = number_key(inode)
        is_broken = key in view.broken[Table.INODES]
        self.is_regular = is_broken or (node is not None and stat.S_ISREG(node.mode))
        trim_unknown = key in view.broken[Table.TRIMS]
        self._size = KEY_MAX if node is None or trim_unknown else node.size
        trim = view.find(Table.TRIMS, key, decode_number)
        self._visible_to = KEY_MAX if trim is None else trim

    def violation(self, extent: Extent) -> tuple[str, str] | None:
        """Return the invariant that an extent breaks and how, None if it is sound."""
        reached, self._reached = self._reached, max(self._reached, extent.stop)
        if not self._view.has(Table.CHUNKS, number_key(extent.chunk)):
            return "extent-chunk", f"chunk {extent.chunk} does not exist"
        record = self._view.chunk(extent.chunk)
        if record is not None and extent.skip + extent.length > record.size:
            return "extent-inside", f"it reaches past the end of chunk {extent.chunk}"
        if extent.start < reached:
            return "extent-overlap", "it overlaps the one before it"
        if min(extent.stop, self._visible_to) > self._size:
            return "extent-size", f"it reaches past the file's size, {self._size}"
        return None


def uses_are_right(view: CheckView, _: Reported) -> Iterator[Finding]:
    """A chunk's use counts are the sums of its extents.

    With more uses than its record counts, gc would remove a chunk that a file needs, or one of the
    files had an extent of another chunk there. With fewer, a file lacks an extent.
    """
    if view.broken[Table.EXTENTS]:
        return  # broken rows cannot be counted
    extents = view.references.extents
    overused = [chunk for chunk, record in view.chunks() if record.refs < extents.get(chunk, 0)]
    users = view.users(overused)
    for chunk, record in view.chunks():
        count = extents.get(chunk, 0)
        size = view.references.bytes.get(chunk, 0)
        if (record.refs, record.ref_bytes) != (count, size):
            message = (
                f"chunk {chunk} is used {count} times, {size} bytes; its record says "
                f"{record.refs} times, {record.ref_bytes} bytes"
            )
            is_damage = chunk in users or chunk in view.missing
            severity = Severity.DAMAGE if is_damage else Severity.ACCOUNT
            yield Finding("chunk-uses", message, tuple(users.get(chunk, ())), severity=severity)


def maps_are_complete(view: CheckView, _: Reported) -> Iterator[Finding]:
    """No file has a hole in the place of an extent that the chunks still count.

    Every hole may be the place, also a long one: a missing extent beside a hole makes it longer.
    Since format 4 the totals of inodes are exact: see `inode_totals`.
    """
    if view.store.superblock.version >= TOTALS_SINCE:
        return
    missing = sum(view.missing.values()) - sum(view.surplus.values())
    if view.broken[Table.EXTENTS] or missing <= 0:
        return
    for inode, start, stop in view.holes():
        message = (
            f"in the hole at {start} to {stop} of inode {inode} an extent may be missing: "
            f"chunks count {missing} bytes that no file has"
        )
        tensors = tuple(view.tensors(inode, start, stop))
        yield Finding("map-hole", message, (view.path(inode),), tensors)


def dead_chunks_are_listed(view: CheckView, _: Reported) -> Iterator[Finding]:
    """A chunk is in the table of dead chunks if, and only if, no file and no chunk needs it."""
    for chunk, record in view.chunks():
        if view.has(Table.DEAD, number_key(chunk)) == record.alive:
            state = "needed and is" if record.alive else "not needed and is not"
            message = f"chunk {chunk} is {state} listed as dead"
            severity = Severity.DAMAGE if record.alive else Severity.ACCOUNT
            yield Finding("dead", message, severity=severity)
    for key, number in view.rows(Table.DEAD, decode_mark):
        if not view.has(Table.CHUNKS, key):
            message = f"chunk {number} is listed as dead, but does not exist"
            yield Finding("dead", message, severity=Severity.ACCOUNT)


def hashes_find_chunks(view: CheckView, _: Reported) -> Iterator[Finding]:
    """The hash of a chunk's content leads to it, and no other hash does."""
    unlisted: set[ChunkId] = set()
    for chunk, record in view.chunks():
        if record.is_lost and record.digest == UNKNOWN:
            continue
        listed = view.find(Table.HASHES, record.digest, decode_hash) or []
        if chunk not in listed and record.digest not in view.broken[Table.HASHES]:
            unlisted.add(chunk)
            message = f"chunk {chunk} is not found by its hash {record.digest.hex()}"
            yield Finding("hash", message, severity=Severity.ACCOUNT)
    for digest, chunks in view.rows(Table.HASHES, decode_hash):
        for chunk in chunks:
            target = view.chunk(chunk)
            is_broken = number_key(chunk) in view.broken[Table.CHUNKS]
            has_digest = is_broken or (target is not None and target.digest == digest)
            if chunk not in unlisted and not has_digest:
                message = f"hash {digest.hex()} leads to chunk {chunk}, which does not have it"
                yield Finding("hash", message, severity=Severity.ACCOUNT)


def forms_are_possible(view: CheckView, _: Reported) -> Iterator[Finding]:
    """A chunk's kind, codec and sizes go together."""
    problems = {
        chunk: f"chunk {chunk}: {problem}"
        for chunk, record in view.chunks()
        if (problem := form_problem(record, view.store.superblock.chunk_size)) is not None
    }
    yield from chunk_findings(view, "chunk-form", problems)
