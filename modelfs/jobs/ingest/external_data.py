"""Data files whose layout is in a model: ONNX external data.

The model is usually written last, and both files may be replaced later. So the index records which
model names which data file, by folder and name. When either file arrives, the data file is cut, or
cut again, at the tensors that its models place in it. Only names at or below the model's own folder
are followed, and never through a symbolic link.

Example. weights.data arrives first, and is cut on the plain grid. Then model.onnx arrives in the
same folder, with 200 tensors in `weights.data`. Its ingest records (folder, "weights.data", model),
and requests another ingest of weights.data, which is then cut at the 200 tensors.
"""

import stat
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

from modelfs.errors import CorruptData
from modelfs.formats.layout import Format, Layout, ReadAt, TensorSpan
from modelfs.formats.sniff import external_layout, recognise
from modelfs.store.index.name_records import NAME_MAX, Dentry
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import (
    InodeNumber,
    Table,
    external_data_key,
    named_key,
    number_key,
    prefix_end,
    request_value,
)
from modelfs.store.store import Store

Place = tuple[InodeNumber, bytes]  # folder and name

# A data file that more models name is cut by the first of them only.
MODELS_MAX: Final = 16
# Of more tensors in one data file, from all its models together, the first are used. The tensors of
# one model are bounded by the memory of a scan.
SPANS_MAX: Final = 1 << 17


class ExternalData:
    """The table of data files that models name. Reading is for any thread."""

    table: Final = Table.EXTERNAL_DATA

    def __init__(self, store: Store) -> None:
        self._index = store.index
        self._inodes = store.inodes
        self._dentries = store.dentries

    def places_named(self, model: InodeNumber, layout: Layout) -> set[Place]:
        """Return the places of the data files that a model's layout names."""
        locations = {external.location for external in layout.external}
        return {
            place
            for folder, _ in self._dentries.names_of(model)
            for location in locations
            if (place := self._resolve(folder, location)) is not None
        }

    def record(self, model: InodeNumber, places: Iterable[Place]) -> None:
        """Record the data files that a model names, and request ingest of those that exist."""
        for folder, name in places:
            self._index.put(Table.EXTERNAL_DATA, external_data_key(folder, name, model), b"")
            data = self._lookup(folder, name)
            # A model is cut by its own content: two that name each other would be cut without end.
            if data is not None and data.format in (Format.PLAIN, Format.ONNX_DATA):
                self._index.put(Table.PENDING, number_key(data.inode), request_value())

    def models_naming(self, data: InodeNumber) -> set[InodeNumber]:
        """Return the models that name a data file, by any of its names."""
        models: set[InodeNumber] = set()
        for place in self._dentries.names_of(data):
            prefix = named_key(*place) + b"\0"
            for key in islice(
                self._index.keys(Table.EXTERNAL_DATA, prefix, prefix_end(prefix)), MODELS_MAX
            ):
                node = self._inodes.find(_model_of(key))
                if node is not None and node.nlink:
                    models.add(node.inode)
        return models

    def placed_layout(
        self, data: InodeNumber, size: int, models: Mapping[InodeNumber, tuple[ReadAt, int]]
    ) -> Layout:
        """Return the layout of a data file: the tensors that its models place in it.

        Args:
            data: the data file.
            size: its length, in bytes.
            models: for each model that names it, a reader of the model, and its size.
        """
        places = set(self._dentries.names_of(data))
        spans: list[TensorSpan] = []
        for model, (read_at, model_size) in models.items():
            try:
                layout = recognise(read_at, model_size)
            except CorruptData:
                continue  # the tensors of a damaged model are unknown
            if layout.format is not Format.ONNX:
                continue
            folders = {folder for folder, _ in self._dentries.names_of(model)}
            inside = (
                external.span
                for external in layout.external
                if any(self._resolve(folder, external.location) in places for folder in folders)
            )
            spans.extend(islice(inside, SPANS_MAX - len(spans)))
        return external_layout(spans, size)

    def is_stale(self, key: bytes) -> bool:
        """Whether the model of a row is gone."""
        return self._inodes.find(_model_of(key)) is None

    def _resolve(self, folder: InodeNumber, location: str) -> Place | None:
        *folders, name = location.encode(errors="surrogateescape").split(b"/")
        if any(len(part) > NAME_MAX for part in (*folders, name)):
            return None  # no file can have that name, and no key could hold it
        for part in folders:
            if part not in (b"", b"."):
                node = self._lookup(folder, part)
                if node is None or not stat.S_ISDIR(node.mode):
                    return None
                folder = node.inode
        return (folder, name) if name not in (b"", b".", b"..") else None

    def _lookup(self, folder: InodeNumber, name: bytes) -> Inode | None:
        value = self._index.get(Table.DENTRIES, named_key(folder, name))
        return None if value is None else self._inodes.find(Dentry.from_bytes(value).inode)


def _model_of(key: bytes) -> InodeNumber:
    return InodeNumber(int.from_bytes(key[-8:], "big"))
