"""The hint tables of a store: rows that only speed up a search, and that gc drops when stale."""

from modelfs.jobs.gc.collector import Hints
from modelfs.jobs.ingest.copies import CopyHints
from modelfs.jobs.ingest.external_data import ExternalData
from modelfs.jobs.optimize.similarity import SimilarityIndex
from modelfs.store.store import Store


def all_hints(store: Store) -> tuple[Hints, ...]:
    """Return every hint table of a store, for `gc.Collector`."""
    return ExternalData(store), CopyHints(store), SimilarityIndex(store)
