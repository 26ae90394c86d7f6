"""The repair of a damaged sample, and the rows that it does not leave as they were."""

from dataclasses import dataclass
from typing import Final

from modelfs.jobs.repair.context import Action, Outcome
from modelfs.jobs.repair.run import repair
from modelfs.store.index.counters import (
    NEXT_CHUNK,
    NEXT_COOKIE,
    NEXT_INODE,
    NEXT_PACK,
    SESSION,
)
from modelfs.store.index.tables import Table
from modelfs.store.store import Store
from tests.support.sample_store import Sample
from tests.support.stores import check_closed

Row = tuple[Table, bytes]

# A session skips them ahead.
NUMBERS: Final = frozenset({SESSION, NEXT_CHUNK, NEXT_COOKIE, NEXT_INODE, NEXT_PACK})


@dataclass(frozen=True, slots=True)
class Repaired:
    """The actions of a repair, and the rows that differ from those before the damage."""

    actions: list[Action]
    changes: dict[Row, bytes | None]  # by table and key; None: removed


def rows_in(store: Store) -> dict[Row, bytes]:
    """Return all rows of a store, except for the counters of next numbers."""
    return {
        (table, key): value
        for table in Table
        for key, value in store.index.pages(table)
        if table is not Table.META or key not in NUMBERS
    }


def repaired(sample: Sample, before: dict[Row, bytes]) -> Repaired:
    """Repair a damaged sample, which has to be sound then.

    Args:
        sample: with the damage; it is closed.
        before: its rows without the damage.
    """
    assert sample.findings() != []
    report = repair(sample.path, data=True)
    assert report.after.findings == []
    assert check_closed(sample.path) == []
    with Store(sample.path, read_only=True) as store:
        after = rows_in(store)
    keys = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    return Repaired(report.actions, {key: after.get(key) for key in sorted(keys)})


def mended(message: str, *files: bytes) -> Action:
    """Return the action of a repair that restored something."""
    return Action(Outcome.REPAIRED, message, files)


def lost(message: str, *files: bytes) -> Action:
    """Return the action of a repair that lost something."""
    return Action(Outcome.QUARANTINED, message, files)
