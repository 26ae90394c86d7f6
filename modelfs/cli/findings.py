"""Findings of `fsck` and `scrub`, as lines of text."""

import os
from collections.abc import Iterable

from modelfs.cli.escape import plain
from modelfs.jobs.check.findings import Finding


def line_of(finding: Finding) -> str:
    """Return a finding as one line."""
    text = f"{finding.severity}: {finding.invariant}: {finding.message}"
    return with_names(text, finding.files, finding.tensors)


def with_names(text: str, files: Iterable[bytes], tensors: Iterable[str]) -> str:
    """Return a text, followed by the names of affected files and tensors."""
    parts = [text]
    if paths := ", ".join(map(os.fsdecode, files)):
        parts.append(f"files: {paths}")
    if names := ", ".join(tensors):
        parts.append(f"tensors: {names}")
    return plain("; ".join(parts))
