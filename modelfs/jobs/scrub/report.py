"""What a scrub tells: how far it is, and whom the damage hurts that it found."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from modelfs.jobs.check.view import CheckView, Finding
from modelfs.jobs.scrub.scrubber import Scrubber
from modelfs.store.index.tables import ChunkId
from modelfs.store.store import Store


def whom_it_hurts(store: Store, problems: Mapping[ChunkId, str]) -> list[Finding]:
    """Return a finding for each damaged chunk, with the files and tensors that it hurts.

    Any thread. Costs a walk over all extents, if there is damage.
    """
    return list(CheckView(store).chunk_findings("content", problems))


def scrub_report(store: Store, *, running: bool = False) -> dict[str, Any]:
    """Return the scrub's status and what is damaged still, as JSON can hold it. Any thread."""
    scrubber = Scrubber(store)
    return {
        **asdict(scrubber.status()),
        "running": running,
        "findings": [each.to_dict() for each in whom_it_hurts(store, scrubber.damaged())],
    }
