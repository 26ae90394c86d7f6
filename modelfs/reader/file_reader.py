"""Reads of a file's bytes, layout and report by its inode, for `File` and `Tensor`."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np

from modelfs.errors import CorruptChunk, LostBytes, NotFound
from modelfs.formats.layout import Format, TensorSpan
from modelfs.jobs.inspect.file import report, state_of
from modelfs.jobs.inspect.layout import parts_of
from modelfs.jobs.inspect.report import FileReport
from modelfs.jobs.inspect.sharers import sharers_of
from modelfs.reader.connection import Check, Connection, Plan
from modelfs.reader.layout import LayoutStamp, is_indexed, layout_stamp, read_layout
from modelfs.store.files.read_runs import ReadRun
from modelfs.store.files.tensors import TensorTable
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NamedSpans:
    """A file's layout, by the names of the tensors, in file order."""

    format: Format
    spans: dict[str, TensorSpan]


class FileReader:
    """Reads a file of a store. Any thread."""

    def __init__(self, connection: Connection, path: str, inode: InodeNumber) -> None:
        self.connection = connection
        self.path = path
        self._inode = inode
        self._named: tuple[LayoutStamp, NamedSpans] | None = None

    @property
    def key(self) -> tuple[Connection, str, InodeNumber]:
        return self.connection, self.path, self._inode

    @property
    def identity(self) -> tuple[object, InodeNumber]:
        """The store and the inode, which are the same for all paths of the file."""
        return self.connection.identity, self._inode

    def __reduce__(self) -> tuple[type[Self], tuple[Connection, str, InodeNumber]]:
        return type(self), self.key  # without the spans, which may be many

    def __repr__(self) -> str:
        return f"modelfs.open({str(self.connection.folder)!r})[{self.path!r}]"

    def size(self) -> int:
        return self._call(lambda store: store.contents.node(self._inode).size)

    def named(self) -> NamedSpans:
        """Return the layout as of the last commit; the same object as before if it is equal."""
        return self._call(lambda store: self._named_at(store, layout_stamp(store, self._inode)))

    def report(self) -> FileReport:
        """Return the report of inspect, with paths as `File.path` has them."""
        return self._call(self._report_at)

    def _report_at(self, store: Store) -> FileReport:
        state = state_of(store, self._inode)
        parts = parts_of(store, state)

        @functools.cache
        def path_of(inode: InodeNumber) -> str:
            return os.fsdecode(store.namespace.path_of(inode)).removeprefix("/")

        return report(state, parts, sharers_of(store, self._inode, parts), path_of)

    def read(self, offset: int, size: int | None, span: TensorSpan | None = None) -> bytes:
        """Return bytes from `offset` on, to the end without a size.

        Args:
            offset: from the start of the file.
            size: of the bytes, at most; None: all up to the end.
            span: of a tensor; `NotFound` if the file does not have it there any more.
        """
        with self._naming_damage():
            return self.connection.read(*self._plan_and_check(offset, size, span))

    def read_into(self, offset: int, into: memoryview, span: TensorSpan | None = None) -> int:
        """Fill a buffer from `offset` on, and return the number of bytes read."""
        with self._naming_damage():
            plan, check = self._plan_and_check(offset, len(into), span)
            return self.connection.read_into(plan, into, check)

    @contextlib.contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except CorruptChunk as exc:
            raise CorruptChunk(exc.chunk, f"{exc.problem}, in {self.path}", exc.base) from exc
        except LostBytes as exc:
            raise LostBytes(f"{self.path}: {exc}", exc.errno) from exc

    def _plan_and_check(
        self, offset: int, size: int | None, span: TensorSpan | None
    ) -> tuple[Plan, Check]:
        if offset < 0 or (size is not None and size < 0):
            raise ValueError(f"{size} bytes from {offset} on: no number may be negative")
        is_staged = False

        def plan(store: Store) -> list[ReadRun]:
            nonlocal is_staged
            self._check_there(store)
            if span is not None:
                is_staged = self._check_span(store, span)
            left = max(0, store.contents.node(self._inode).size - offset)
            return store.contents.plan(self._inode, offset, left if size is None else size)

        def check(store: Store) -> None:
            if span is not None and is_staged:  # chunks do not change during a read
                self._check_there(store)
                self._check_span(store, span)

        return plan, check

    def _check_span(self, store: Store, span: TensorSpan) -> bool:
        """Check that the file has a tensor, and return whether some of its bytes are staged."""
        if is_indexed(store, self._inode):
            has_span, is_staged = TensorTable(store.index).has(self._inode, span), False
        else:
            stamp = layout_stamp(store, self._inode)
            has_span = self._named_at(store, stamp).spans.get(span.name) == span
            is_staged = bool(stamp.staged)
        if not has_span:
            raise NotFound(f"{self.path} does not have the tensor {span.name} any more")
        return is_staged

    def _call(self, function: Callable[[Store], T]) -> T:
        def at_commit(store: Store) -> T:
            self._check_there(store)
            return function(store)

        return self.connection.call(at_commit)

    def _check_there(self, store: Store) -> None:
        if store.inodes.find(self._inode) is None:
            raise NotFound(f"{self.path} was removed")

    def _named_at(self, store: Store, stamp: LayoutStamp) -> NamedSpans:
        before = self._named
        if before is not None and before[0] == stamp:
            return before[1]
        layout = read_layout(store, self._inode)
        spans: dict[str, TensorSpan] = {}
        for span in layout.spans:
            spans.setdefault(span.name, span)
        named = NamedSpans(layout.format, spans)
        if before is not None and before[1] == named:
            named = before[1]
        self._named = stamp, named
        return named


def writable(buffer: Any) -> memoryview:
    """Return the bytes of a buffer, to be filled.

    Raises:
        TypeError: it is not a buffer, is read-only, or is not contiguous in C order.
    """
    if isinstance(buffer, np.ndarray) and buffer.flags.c_contiguous:
        buffer = buffer.reshape(-1).view(np.uint8)  # the buffer protocol lacks some dtypes
    view = memoryview(buffer)
    if view.readonly:
        raise TypeError("the buffer is read-only")
    if not view.c_contiguous:
        raise TypeError("the buffer is not contiguous in C order")
    return view.cast("B") if view.nbytes else memoryview(bytearray())
