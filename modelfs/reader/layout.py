"""The tensors of a file, at one commit.

Theory of operation. Ingest puts a file's tensors into the index. Between the flush of new bytes
and the end of their ingest, these rows may be those of the old content. So a file with staged
bytes, or with a request for ingest, is scanned, as ingest will do. For any other file the rows are
right.

A tensor's place is right while the file has the same *stamp*. With another stamp the tensor is
looked up again: a checkpoint that is overwritten in place has its tensors at other places, and
bytes from the old place would be silently wrong. The data file of an ONNX model is cut again when
its model changes, although it does not change itself; so its stamp is of one commit only.

Example. A training run overwrites `last.pt`. Before its first flush readers see the old tensors;
after it, while the file is incomplete, none; once it is whole and durable, the new ones, before
ingest has cut it into chunks.
"""

from typing import NamedTuple

from modelfs.formats.layout import Format, Layout
from modelfs.formats.sniff import recognise
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.tables import InodeNumber, Table, number_key
from modelfs.store.store import Store


class Stamp(NamedTuple):
    """Values of which one changes whenever the file's layout does."""

    ctime_ns: int
    size: int
    format: Format
    is_indexed: bool  # the index has the layout
    commit: int  # of the index, for a data file of ONNX; else 0


def stamp_of(store: Store, inode: InodeNumber) -> Stamp:
    """Return a file's stamp. Raises NotFound if the file was removed."""
    node = store.contents.node(inode)
    is_indexed = (
        store.index.get(Table.PENDING, number_key(inode)) is None
        and store.staging.find(inode) is None
    )
    commit = store.index.snapshot_id() if node.format is Format.ONNX_DATA else 0
    return Stamp(node.ctime_ns, node.size, node.format, is_indexed, commit)


def layout_of(store: Store, inode: InodeNumber, stamp: Stamp) -> Layout:
    """Return the layout of a file that has this stamp."""
    if stamp.is_indexed:
        return Layout(stamp.format, tuple(TensorTable(store.index).spans(inode)))
    return recognise(lambda offset, size: store.contents.read(inode, offset, size), stamp.size)
