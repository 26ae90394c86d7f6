"""Inspection of one file: its tensors, their forms, and the other users of their chunks.

There are two halves, as of a read: `state_of` copies the state that only the owner may look at, and
`report_on` does the work on any thread. That work is three functions with values between them:
`parts_of` finds the chunks of each tensor, `sharers_of` the other users of these chunks, and
`report` puts both into words that JSON can hold. Memory is bounded by the file's own map: of a
tensor's users only `SHARERS_MAX` are kept.

Example. `base` has the tensors `a` in chunk 1 and `b` in chunk 2. `tuned` has an equal `a`, so in
chunk 1, and another `b` in chunk 3, which is stored as a delta of chunk 2::

    parts_of(tuned)   a: 4096 bytes plain, chunk 1; b: 4096 bytes delta, chunk 3
    sharers_of(...)    a: base's a has 4096 bytes of the same; the source of chunk 3: base's b
    report(...)        a shared with /base a; b derived from /base b; own bytes: those of chunk 3

The own bytes of `base` are none: chunk 1 is `tuned`'s, too, and chunk 3 needs chunk 2.
"""

import functools
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence

from modelfs.errors import InvalidArgument, IsADirectory
from modelfs.jobs.inspect.layout import FileState, Part, parts_of, records_of
from modelfs.jobs.inspect.report import Base, FileReport, FormShare, Sharer, TensorReport
from modelfs.jobs.inspect.sharers import SHARERS_MAX, Sharers, User, Users, sharers_of
from modelfs.store.index.tables import InodeNumber
from modelfs.store.index.tensor_records import TensorRow
from modelfs.store.store import Store

PathOf = Callable[[InodeNumber], str]


def inspect(store: Store, inode: InodeNumber) -> FileReport:
    """Report on a file as it is now. For the owner; takes as long as `report_on` does.

    Raises:
        NotFound: no such inode.
        IsADirectory: it is a directory.
        InvalidArgument: it is neither a file nor a directory.
    """
    return report_on(store, state_of(store, inode))


def state_of(store: Store, inode: InodeNumber) -> FileState:
    """Return a copy of a file's state. For the owner, and quick. Raises what `inspect` does."""
    node = store.inodes.get(inode)
    if stat.S_ISDIR(node.mode):
        raise IsADirectory("a directory has no content to inspect")
    if not stat.S_ISREG(node.mode):
        raise InvalidArgument("only regular files have content to inspect")
    return FileState(node, store.contents.snapshot(inode))


def report_on(store: Store, file: FileState) -> FileReport:
    """Report on a file in a state that `state_of` returned. Any thread.

    Takes seconds in a large store, if other files use the same chunks.
    """
    parts = parts_of(store, file)
    sharers = sharers_of(store, file.inode, parts)
    path_of = functools.cache(lambda inode: os.fsdecode(store.namespace.path_of(inode)))
    return report(file, parts, sharers, path_of)


def report(file: FileState, parts: Sequence[Part], sharers: Sharers, path_of: PathOf) -> FileReport:
    """Return the report on a file that consists of these parts; `path_of` gives paths of inodes."""
    chunks = records_of(parts)
    records = {chunk: record for chunk, record in chunks.items() if record is not None}
    sizes, stored = Counter[str](), Counter[str]()
    for part in parts:
        sizes.update(part.forms)
    for record in records.values():
        stored[record.form] += record.stored
    shared = sum(record.stored for chunk, record in records.items() if chunk in sharers.needed)
    return FileReport(
        path=path_of(file.inode),
        inode=file.inode,
        format=file.node.format.name.lower(),
        size=file.staged.size,
        chunks=len(chunks),
        stored_bytes=stored.total(),
        own_bytes=stored.total() - shared,
        shared_bytes=shared,
        staged_bytes=file.staged.staged_bytes,
        forms=_form_shares(sizes, stored),
        tensors=tuple(
            _tensor_report(part.tensor, part, users, sharers, path_of)
            for part, users in zip(parts, sharers.parts, strict=True)
            if part.tensor is not None
        ),
        shared_with=_listed(sharers.files, path_of),
        more_sharers=sharers.files.more,
        base_of=_listed(sharers.derived, path_of),
        more_base_of=sharers.derived.more,
    )


def _tensor_report(
    tensor: TensorRow, part: Part, users: Users, sharers: Sharers, path_of: PathOf
) -> TensorReport:
    """Return the report on a tensor; stored bytes of a chunk count by the tensor's part of it."""
    stored = Counter[str]()
    bases = Counter[User | None]()
    for chunk, (record, form, ranges) in part.chunks.items():
        if record is not None:
            stored[form] += record.stored * ranges.size // record.size
        sources = sharers.sources.get(chunk, ())
        for base in {sharers.source_users.get(source) for source in sources}:
            bases[base] += ranges.size
    return TensorReport(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        start=tensor.start,
        bytes=tensor.size,
        stored_bytes=stored.total(),
        forms=_form_shares(part.forms, stored),
        shared_with=_listed(users, path_of),
        more_sharers=users.more,
        derived_from=tuple(
            Base(None, None, size) if base is None else Base(path_of(base.inode), base.tensor, size)
            for base, size in bases.most_common(SHARERS_MAX)
        ),
    )


def _form_shares(sizes: Counter[str], stored: Counter[str]) -> tuple[FormShare, ...]:
    return tuple(FormShare(form, sizes[form], stored[form]) for form in sorted(sizes))


def _listed(users: Users, path_of: PathOf) -> tuple[Sharer, ...]:
    """Return users in the order of their paths and of their tensors' starts."""
    in_order = sorted(users.bytes, key=lambda user: (path_of(user.inode), user.start))
    return tuple(Sharer(path_of(user.inode), user.tensor, users.bytes[user]) for user in in_order)
