"""Reports of `inspect` on the sample models."""

from modelfs.jobs.inspect.file import inspect
from modelfs.jobs.inspect.report import FileReport, Sharer
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store


def report_on(store: Store, name: str) -> FileReport:
    """Return the report on a file of the root directory."""
    return inspect(store, store.namespace.lookup(ROOT, name.encode()))


def sharers(shared_with: tuple[Sharer, ...]) -> set[tuple[str, str | None]]:
    """Return the paths and tensors of sharers."""
    return {(each.path, each.tensor) for each in shared_with}
