"""What `inspect` reports of a file: sizes in bytes, everything as JSON can hold it."""

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
    bytes: int  # of that file, that lie in these chunks


@dataclass(frozen=True, slots=True)
class Base:
    """Where that is from which bytes are derived."""

    path: str | None  # None: in no file; it is held only because others derive from it
    tensor: str | None
    bytes: int  # that derive from it


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One tensor. A chunk that it has only a part of counts with that part."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int  # bytes from the start of the file
    bytes: int
    stored_bytes: int
    forms: tuple[FormShare, ...]
    shared_with: tuple[Sharer, ...]
    more_sharers: bool  # there are others than those listed
    derived_from: tuple[Base, ...]  # the first user of each source, by bytes


@dataclass(frozen=True, slots=True)
class FileReport:
    """One file. A chunk that it has any part of counts whole; what that derives from does not."""

    path: str
    inode: int
    format: str
    size: int
    chunks: int
    stored_bytes: int  # own_bytes and shared_bytes together
    own_bytes: int  # stored for this file alone, so freed when it goes
    shared_bytes: int  # other files use them, or have what derives from them
    staged_bytes: int
    forms: tuple[FormShare, ...]
    tensors: tuple[TensorReport, ...]  # in file order
    shared_with: tuple[Sharer, ...]  # other files
    more_sharers: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        made: dict[str, Any] = _jsonable(dataclasses.asdict(self))
        return made


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(each) for each in value]
    return value
