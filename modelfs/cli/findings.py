"""How findings are printed."""

import os
from collections.abc import Iterable

from modelfs.cli.escape import plain
from modelfs.jobs.check.view import Finding


def line_of(finding: Finding) -> str:
    """Return what is printed of a finding."""
    what = f"{finding.severity}: {finding.invariant}: {finding.message}"
    return with_names(what, finding.files, finding.tensors)


def with_names(what: str, files: Iterable[bytes], tensors: Iterable[str]) -> str:
    parts = [what]
    if paths := ", ".join(map(os.fsdecode, files)):
        parts.append(f"files: {paths}")
    if names := ", ".join(tensors):
        parts.append(f"tensors: {names}")
    return plain("; ".join(parts))
