"""Data files whose layout is in a model: ONNX external data.

The model is usually written last, and may be replaced later, as may the data. So the index
remembers which model names which file, by folder and name: when either arrives, the data file is
cut (again) at the tensors that the models naming it say it holds. Only names at or below the
model's own folder are followed, and never through a symbolic link.
"""

import stat
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from modelfs.errors import CorruptData
from modelfs.formats.layout import ExternalSpan, Format, Layout, ReadAt, TensorSpan
from modelfs.formats.sniff import external_layout, recognise
from modelfs.store.files.namespace import NAME_MAX
from modelfs.store.index.records import Dentry
from modelfs.store.index.tables import (
    InodeNumber,
    Table,
    named_key,
    number_key,
    prefix_end,
    request_value,
    sidecar_key,
)
from modelfs.store.store import Store

Place = tuple[InodeNumber, bytes]  # folder and name

# A file that more models name than this is cut by the first of them only.
MODELS_MAX = 16
# Of more tensors than this in one file, from all its models together, the first are looked at: one
# model's are bounded by what a scan may keep.
SPANS_MAX = 1 << 17


class ExternalData:
    """Which model's tensors are in which data file. Reading is for any thread."""

    TABLE: Final = Table.EXTERNAL_DATA

    def __init__(self, store: Store) -> None:
        self._index = store.index
        self._inodes = store.inodes
        self._namespace = store.namespace

    def named_by(self, model: InodeNumber, layout: Layout) -> set[Place]:
        """Return the places of the data files that a model's layout names."""
        locations = {external.location for external in layout.external}
        return {
            place
            for folder, _ in self._namespace.names_of(model)
            for location in locations
            if (place := self._resolve(folder, location)) is not None
        }

    def record(self, model: InodeNumber, places: set[Place]) -> None:
        """Remember that a model names these data files, and let those that exist be cut anew."""
        for folder, name in places:
            self._index.put(Table.EXTERNAL_DATA, sidecar_key(folder, name, model), b"")
            data = self._lookup(folder, name)
            if data is not None and self._is_data(data):
                self._index.put(Table.PENDING, number_key(data), request_value())

    def models_naming(self, data: InodeNumber) -> set[InodeNumber]:
        """Return the models that name a data file, by any of its names."""
        places = self._namespace.names_of(data)
        return {model for place in places for model in self._models_of(place)}

    def layout_of(
        self, data: InodeNumber, size: int, models: Mapping[InodeNumber, tuple[ReadAt, int]]
    ) -> Layout:
        """Return the layout that the models naming `data` give it.

        Args:
            data: the data file.
            size: its length, in bytes.
            models: for each model that names it, how to read it, and its size.
        """
        places = set(self._namespace.names_of(data))
        spans: list[TensorSpan] = []
        for model, (read_at, model_size) in models.items():
            folders = {folder for folder, _ in self._namespace.names_of(model)}
            found = (
                external.span
                for external in _externals(read_at, model_size)
                if any(self._resolve(each, external.location) in places for each in folders)
            )
            spans.extend(islice(found, SPANS_MAX - len(spans)))
        return external_layout(spans, size)

    def is_stale(self, key: bytes) -> bool:
        """Whether a row is of a model that is gone."""
        return self._inodes.find(InodeNumber(int.from_bytes(key[-8:], "big"))) is None

    def _models_of(self, place: Place) -> Iterator[InodeNumber]:
        prefix = named_key(*place) + b"\0"
        rows = self._index.scan(Table.EXTERNAL_DATA, prefix, prefix_end(prefix), MODELS_MAX)
        for key, _ in rows:
            model = InodeNumber(int.from_bytes(key[-8:], "big"))
            if (node := self._inodes.find(model)) is not None and node.nlink:
                yield model

    def _resolve(self, folder: InodeNumber, location: str) -> Place | None:
        *folders, name = location.encode(errors="surrogateescape").split(b"/")
        if any(len(part) > NAME_MAX for part in (*folders, name)):
            return None  # no file can have that name, and no key could hold it
        for part in folders:
            if part not in (b"", b"."):
                found = self._lookup(folder, part)
                if found is None or not self._is_folder(found):
                    return None
                folder = found
        return (folder, name) if name not in (b"", b".", b"..") else None

    def _lookup(self, folder: InodeNumber, name: bytes) -> InodeNumber | None:
        value = self._index.get(Table.DENTRIES, named_key(folder, name))
        return None if value is None else Dentry.from_bytes(value).inode

    def _is_data(self, inode: InodeNumber) -> bool:
        # A model is cut by its own content: two that name each other would be cut for ever.
        node = self._inodes.find(inode)
        return node is not None and node.format in (Format.PLAIN, Format.ONNX_DATA)

    def _is_folder(self, inode: InodeNumber) -> bool:
        node = self._inodes.find(inode)
        return node is not None and stat.S_ISDIR(node.mode)


def _externals(read_at: ReadAt, size: int) -> tuple[ExternalSpan, ...]:
    try:
        layout = recognise(read_at, size)
    except CorruptData:
        return ()  # a damaged model names nothing
    return layout.external if layout.format is Format.ONNX else ()
