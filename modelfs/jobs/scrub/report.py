"""The report of a scrub: its progress, and the files and tensors that damage affects."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from modelfs.jobs.check.findings import Finding
from modelfs.jobs.check.impact import chunk_findings
from modelfs.jobs.check.view import CheckView
from modelfs.jobs.scrub.scrubber import Scrubber
from modelfs.store.index.tables import ChunkId
from modelfs.store.store import Store


def damage_findings(store: Store, damaged: Mapping[ChunkId, str]) -> list[Finding]:
    """Return a finding for each damaged chunk, with the files and tensors that need it.

    Costs a walk over all extents, if there is damage. Any thread.

    Args:
        store: the store.
        damaged: a message for each damaged chunk.
    """
    return list(chunk_findings(CheckView(store), "content", damaged))


def scrub_report(store: Store, *, running: bool = False) -> dict[str, Any]:
    """Return the status of the scrub and the present damage, ready for JSON. Any thread."""
    scrubber = Scrubber(store)
    findings = damage_findings(store, scrubber.damaged())
    return {
        **asdict(scrubber.status()),
        "running": running,
        "findings": [finding.to_dict() for finding in findings],
    }
