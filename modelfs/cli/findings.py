"""Findings of `fsck` and `scrub`, as lines of text."""

from collections.abc import Collection

from modelfs.cli.escape import plain
from modelfs.jobs.check import findings
from modelfs.jobs.check.findings import Finding


def line_of(finding: Finding) -> str:
    """Return a finding as one line."""
    text = f"{finding.severity}: {finding.invariant}: {finding.message}"
    return with_names(text, finding.files, finding.tensors)


def with_names(text: str, files: Collection[bytes], tensors: Collection[str]) -> str:
    """Return a text, followed by the names of affected files and tensors."""
    return plain(findings.with_names(text, files, tensors))
