"""The bytes of the files by class: how a store makes them smaller."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

FILE: Final = "identical file"
TENSOR: Final = "identical tensor"
OTHER: Final = "other"
# The forms of `modelfs stats` that are a class of their own, in the order of the table.
FORMS: Final = ("transpose", "cast", "quantise", "delta", "factored", "planes")


@dataclass(frozen=True, slots=True)
class Class:
    """Bytes of the files that are stored in one way, and the stored bytes of these."""

    name: str
    logical: int
    stored: int


def classes(statistics: Mapping[str, Any], identical_files: int) -> list[Class]:
    """Divide the bytes of a store's files into classes. They add up to the files' sizes.

    Args:
        statistics: the output of `modelfs stats --json`.
        identical_files: the bytes of files with the same content as an earlier one.
    """
    forms: Mapping[str, Mapping[str, int]] = statistics["forms"]
    named = {name: forms.get(name, {"raw_bytes": 0, "stored_bytes": 0}) for name in FORMS}
    shared, logical = statistics["shared_bytes"], statistics["logical_bytes"]
    result = [
        Class(FILE, min(identical_files, shared), 0),
        Class(TENSOR, max(0, shared - identical_files), 0),
        *(Class(name, form["raw_bytes"], form["stored_bytes"]) for name, form in named.items()),
    ]
    rest = logical - sum(kind.logical for kind in result)
    stored = statistics["stored_bytes"] - sum(kind.stored for kind in result)
    return [*result, Class(OTHER, rest, stored)]


def identical_bytes(files: Iterable[tuple[str, int]]) -> int:
    """Return the bytes of the files, as (SHA-256, size), whose content an earlier one has."""
    seen: set[str] = set()
    total = 0
    for digest, size in files:
        total += size if digest in seen else 0
        seen.add(digest)
    return total
