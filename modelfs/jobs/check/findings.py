"""Findings: the places where an invariant does not hold.

Example. The stored bytes of chunk 1 fail their checksum::

    Finding("content", "chunk 1: ...", (b"/a",), ("weight",), Severity.DAMAGE)
    fsck prints    damage: content: chunk 1: ...; files: /a; tensors: weight
"""

import enum
import os
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final, Self

# Names in a line of text. A lost pack of 256 MiB can have ten thousand; `to_dict` has all of them.
NAMES_MAX: Final = 20


class Severity(enum.StrEnum):
    """How bad a finding is."""

    DAMAGE = "damage"  # bytes or names are lost, wrong or cannot be read
    ACCOUNT = "account"  # every file reads right, but a count or a list about them is wrong


@dataclass(frozen=True, slots=True)
class Finding:
    """An invariant that does not hold."""

    invariant: str  # a short name that stays the same in all versions
    message: str  # one line
    files: tuple[bytes, ...] = ()  # paths of the affected files
    tensors: tuple[str, ...] = ()  # names of the affected tensors
    severity: Severity = Severity.DAMAGE

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON can hold it."""
        return asdict(self) | {"files": [os.fsdecode(file) for file in self.files]}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Return the finding that `to_dict` encoded."""
        return cls(
            fields["invariant"],
            fields["message"],
            tuple(os.fsencode(file) for file in fields["files"]),
            tuple(fields["tensors"]),
            Severity(fields["severity"]),
        )


def with_names(text: str, files: Collection[bytes], tensors: Collection[str]) -> str:
    """Return a text, followed by the names of affected files and tensors, the first of many."""
    parts = [text]
    if files:
        parts.append(f"files: {_first(map(os.fsdecode, files), len(files))}")
    if tensors:
        parts.append(f"tensors: {_first(tensors, len(tensors))}")
    return "; ".join(parts)


def _first(names: Iterable[str], count: int) -> str:
    shown = ", ".join(islice(names, NAMES_MAX))
    return shown if count <= NAMES_MAX else f"{shown} and {count - NAMES_MAX:,} more"
