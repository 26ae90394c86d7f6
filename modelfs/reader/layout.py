"""The tensors of a file, at one commit.

Theory of operation. Ingest puts a file's tensors into the index. Between the flush of new bytes
and the end of their ingest, these rows may be those of the old content. So a file with staged
bytes, or with a request for ingest, is scanned, as ingest will do. For any other file the rows are
right.

A tensor's place is right while the file has the same *stamp*. With another stamp the tensor is
looked up again: a checkpoint that is overwritten in place has its tensors at other places, and
bytes from the old place would be silently wrong. The data file of an ONNX model is cut again when
its model changes, although it does not change itself; so its stamp is of one commit only.

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

from modelfs.formats.layout import Format, Layout
from modelfs.formats.sniff import recognise
from modelfs.store.files.staged_file import window_name
from modelfs.store.files.tensors import TensorTable
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
    """Values of which one changes whenever the file's layout does."""

    ctime_ns: int
    size: int
    format: Format
    is_indexed: bool  # the index has the layout
    commit: int  # of the index, for a data file of ONNX; else 0
    staged: tuple[StagingTime, ...]
    now_ns: int  # of a file that was written just now; else 0


def layout_stamp(store: Store, inode: InodeNumber) -> LayoutStamp:
    """Return a file's stamp.

    Raises:
        NotFound: the file was removed.
        FileNotFoundError: a later commit has dropped a window of the file.
    """
    node, staged = store.contents.node(inode), store.staging.find(inode)
    requested = store.index.get(Table.PENDING, number_key(inode)) is not None
    times: list[StagingTime] = []
    for number, window in sorted(({} if staged is None else staged.windows).items()):
        path = store.staging.folder / window_name(inode, number, window.generation)
        times.append(StagingTime(number, window.generation, path.stat().st_mtime_ns))
    now_ns = time.time_ns()
    newest = max((written.mtime_ns for written in times), default=0)
    return LayoutStamp(
        node.ctime_ns,
        node.size,
        node.format,
        is_indexed=staged is None and not requested,
        commit=store.index.snapshot_id() if node.format is Format.ONNX_DATA else 0,
        staged=tuple(times),
        now_ns=0 if newest + TICKS_NS < now_ns else now_ns,
    )


def read_layout(store: Store, inode: InodeNumber, stamp: LayoutStamp) -> Layout:
    """Return the layout of a file that has this stamp."""
    if stamp.is_indexed:
        return Layout(stamp.format, tuple(TensorTable(store.index).spans(inode)))
    return recognise(lambda offset, size: store.contents.read(inode, offset, size), stamp.size)
