"""The tensors of a file, at one commit.

Theory of operation. Ingest puts a file's tensors into the index. Between the flush of new bytes
and the end of their ingest, these rows may be those of the old content. So a file with staged
bytes, or with a request for ingest, is scanned, as ingest will do. For any other file the rows are
right.

A read of a tensor checks that the file still has it at its place: a checkpoint that is overwritten
in place has its tensors at other places, and bytes from the old place would be silently wrong. If
the rows are right, that is a lookup of one row. Otherwise the layout is kept while the file has the
same *stamp*, which has the number of the commit: a time would return when the clock is set back,
and the data file of an ONNX model is cut again when its model changes, although it does not change
itself.

Staged bytes may be rewritten without a commit. So the stamp of a file with staged bytes has the
times of its staging files as well, and is compared before and after a read. The kernel counts time
in ticks: two writes in one tick leave the same time. Until a while after the last write no two
stamps are equal, as in the index of git ("racy git"). The check is not exact: bytes of a tensor may
be rewritten before the header is, or with the same header, or the kernel may still be copying a
write whose time it set long ago. Then a read returns bytes of the new content, as that of a plain
file does.

Example. A training run overwrites `last.pt`. Before its first flush readers see the old tensors;
after it, while the file is incomplete, none; once it is whole and durable, the new ones, before
ingest has cut it into chunks. If the run rewrites the header meanwhile, tensors that have moved
raise `NotFound` from then on.
"""

import time
from typing import Final, NamedTuple

from modelfs.formats.layout import Layout
from modelfs.formats.sniff import recognise
from modelfs.store.files.tensors import TensorTable
from modelfs.store.files.window import window_name
from modelfs.store.index.counters import SESSION
from modelfs.store.index.tables import InodeNumber, Table, number_key
from modelfs.store.store import Store

# Many ticks of the clock of file times, which are 10 ms at most.
TICKS_NS: Final = 100_000_000


class StagingTime(NamedTuple):
    """The last write to a staging file. A window that begins again has a new file."""

    window: int
    generation: int
    mtime_ns: int


class LayoutStamp(NamedTuple):
    """Values of which one changes whenever a file's layout may have changed."""

    session: bytes | None  # of the store: another history has the same numbers of commits
    commit: int
    staged: tuple[StagingTime, ...]
    now_ns: int  # of a file that was written just now; else 0


def is_indexed(store: Store, inode: InodeNumber) -> bool:
    """Whether the index has a file's layout: nothing is staged, nor waits for ingest."""
    requested = store.index.get(Table.PENDING, number_key(inode)) is not None
    return not requested and store.staging.find(inode) is None


def layout_stamp(store: Store, inode: InodeNumber) -> LayoutStamp:
    """Return a file's stamp.

    Raises:
        NotFound: the file was removed.
        FileNotFoundError: a later commit has dropped a window of the file.
    """
    staged = store.staging.find(inode)
    times: list[StagingTime] = []
    for number, window in sorted(({} if staged is None else staged.windows).items()):
        status = store.staging.directory.status(window_name(inode, number, window.generation))
        times.append(StagingTime(number, window.generation, status.st_mtime_ns))
    now_ns = time.time_ns()
    newest = max((written.mtime_ns for written in times), default=0)
    return LayoutStamp(
        store.index.get(Table.META, SESSION),
        store.index.rows.snapshot_id(),
        staged=tuple(times),
        now_ns=0 if newest + TICKS_NS < now_ns else now_ns,
    )


def read_layout(store: Store, inode: InodeNumber) -> Layout:
    """Return the present layout of a file.

    Raises:
        NotFound: the file was removed.
    """
    node = store.contents.node(inode)
    if is_indexed(store, inode):
        return Layout(node.format, tuple(TensorTable(store.index).spans(inode)))
    return recognise(lambda offset, size: store.contents.read(inode, offset, size), node.size)
