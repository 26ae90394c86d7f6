"""The report on one file: sizes are in bytes, and every value is one that JSON has."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FormShare:
    """How much of a file or tensor is stored in one form."""

    form: str  # as `stats` calls it, or "staged", "hole", "missing"
    bytes: int  # of the file
    stored_bytes: int  # in packs


@dataclass(frozen=True, slots=True)
class Sharer:
    """A user of the same chunks."""

    path: str
    tensor: str | None  # None: outside of every tensor, or the file as a whole
    bytes: int  # of that file, in these chunks


@dataclass(frozen=True, slots=True)
class Base:
    """The place of a chunk that others derive from."""

    path: str | None  # None: in no file; the chunk stays because others derive from it
    tensor: str | None
    bytes: int  # of the tensor that derive from it


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One tensor. A chunk of which it has a part counts with that part."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int  # bytes from the start of the file
    bytes: int
    stored_bytes: int
    forms: tuple[FormShare, ...]
    shared_with: tuple[Sharer, ...]
    more_sharers: bool  # there are others beside those listed
    derived_from: tuple[Base, ...]  # the first user of each source, by bytes


@dataclass(frozen=True, slots=True)
class FileReport:
    """One file. A chunk of which it has any part counts whole; the chunk's sources do not count."""

    path: str
    inode: int
    format: str
    size: int
    chunks: int
    stored_bytes: int  # own_bytes and shared_bytes together
    own_bytes: int  # stored for this file alone, so freed when it goes
    shared_bytes: int  # of chunks that other files use, or derive chunks from
    staged_bytes: int
    forms: tuple[FormShare, ...]
    tensors: tuple[TensorReport, ...]  # in file order
    shared_with: tuple[Sharer, ...]  # other files
    more_sharers: bool
    base_of: tuple[Sharer, ...]  # other files that have chunks derived from chunks of this one
    more_base_of: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the report in dicts and lists, as JSON has them."""
        report: dict[str, Any] = _with_lists(dataclasses.asdict(self))
        return report


def _with_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_lists(item) for item in value]
    return value
