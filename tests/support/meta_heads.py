"""The first two pages of a data file, as each commit of an index leaves them."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from modelfs.store.index.pages.meta import SECTOR, write_record
from tests.support.index_pages import SIZE
from tests.support.small_index import put


@dataclass(frozen=True)
class Head:
    """The first two pages of a data file right after a commit, before its record, and with it."""

    commit: int
    before: bytes
    after: bytes


def heads(path: Path, monkeypatch: pytest.MonkeyPatch, commits: int) -> list[Head]:
    """Make commits, and return the head of the file after each."""
    found: list[Head] = []

    def record(folder: Directory, transaction: int) -> None:
        before = path.read_bytes()[: 2 * SIZE]
        write_record(folder, transaction)
        found.append(Head(transaction, before, path.read_bytes()[: 2 * SIZE]))

    index = Index(Directory(path.parent))
    found.append(Head(1, *[path.read_bytes()[: 2 * SIZE]] * 2))
    with monkeypatch.context() as patch:
        patch.setattr("modelfs.store.index.index_file.write_record", record)
        for number in range(commits):
            put(index, b"%d" % (number % 3), bytes(2000))
    index.close()
    return found


def states(found: list[Head], at: int) -> dict[str, bytes]:
    """Return the heads that a commit can leave: closed, killed, or cut by a power loss."""
    head = found[at]
    of_two_before = found[max(0, at - 1)].before
    torn = bytearray(head.before)
    for page in range(2):
        sector = slice((page + 1) * SIZE - SECTOR, (page + 1) * SIZE)
        torn[sector] = of_two_before[sector]
    without = bytearray(head.before)
    for page in range(2):
        without[(page + 1) * SIZE - SECTOR : (page + 1) * SIZE] = bytes(SECTOR)
    return {
        "closed": head.after,
        "without its record": head.before,
        "without the last two records": bytes(torn),
        "without records": bytes(without),
    }
