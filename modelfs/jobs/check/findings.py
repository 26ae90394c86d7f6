"""Findings: the places where an invariant does not hold.

Example. The stored bytes of chunk 1 fail their checksum::

    Finding("content", "chunk 1: ...", (b"/a",), ("weight",), Severity.DAMAGE)
    fsck prints    damage: content: chunk 1: ...; files: /a; tensors: weight
"""

import enum
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self


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


def with_names(text: str, files: Iterable[bytes], tensors: Iterable[str]) -> str:
    """Return a text, followed by the names of affected files and tensors."""
    parts = [text]
    if paths := ", ".join(map(os.fsdecode, files)):
        parts.append(f"files: {paths}")
    if names := ", ".join(tensors):
        parts.append(f"tensors: {names}")
    return "; ".join(parts)
