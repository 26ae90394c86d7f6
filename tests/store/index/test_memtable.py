"""The memtable: two layers over LMDB's rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.store.index import memtable as memtable_module
from modelfs.store.index.memtable import Memtable, Unchanged
from modelfs.store.index.tables import Table

META = Table.META


def rows_of(memtable: Memtable, limit: int = 99) -> dict[bytes, bytes | None]:
    changed, _ = memtable.changes(META, b"", b"\xff", limit)
    return changed


def test_a_row_is_that_of_the_newest_layer() -> None:
    """The active layer hides the sealed one, and a deletion hides a value."""
    memtable = Memtable()
    assert isinstance(memtable.get(META, b"a"), Unchanged)
    memtable.set(META, b"a", b"1")
    memtable.set(META, b"b", b"1")
    memtable.seal()
    memtable.set(META, b"a", None)
    assert memtable.get(META, b"a") is None
    assert memtable.get(META, b"b") == b"1"
    assert rows_of(memtable) == {b"a": None, b"b": b"1"}
    assert isinstance(memtable.get(Table.CHUNKS, b"a"), Unchanged)


def test_a_release_leaves_the_changes_made_meanwhile() -> None:
    """Rows changed while a commit is written stay, and wait for the next seal."""
    memtable = Memtable()
    memtable.set(META, b"a", b"1")
    sealed = memtable.seal()
    assert dict(sealed[META]) == {b"a": b"1"}
    memtable.set(META, b"a", b"2")
    memtable.release()
    assert memtable.get(META, b"a") == b"2"
    before = memtable.dirty
    assert dict(memtable.seal()[META]) == {b"a": b"2"}
    memtable.release()
    assert (before, memtable.dirty) == (True, False)
    assert isinstance(memtable.get(META, b"a"), Unchanged)


def test_a_seal_after_a_failed_commit_has_the_newest_rows_of_both() -> None:
    """A sealed layer that was not released joins the next one, whose rows win."""
    memtable = Memtable()
    memtable.set(META, b"a", b"1")
    memtable.set(META, b"b", b"1")
    memtable.seal()
    memtable.set(META, b"b", None)
    memtable.set(META, b"c", b"2")
    assert dict(memtable.seal()[META]) == {b"a": b"1", b"b": None, b"c": b"2"}
    assert len(memtable) == 0
    assert memtable.dirty


def test_undone_and_dropped_changes_wait_for_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a changed row the memtable is not dirty, and the next change is the oldest."""
    now = 10.0
    monkeypatch.setattr(memtable_module, "monotonic", lambda: now)
    memtable = Memtable()
    change = memtable.undo_of(META, b"a")
    memtable.set(META, b"a", b"1")
    memtable.undo([change])
    assert (memtable.dirty, memtable.age) == (False, 0)
    memtable.set(META, b"a", b"1")
    memtable.drop(META, b"a")
    assert (memtable.dirty, memtable.age) == (False, 0)
    now = 50.0
    memtable.set(META, b"b", b"2")
    now = 52.0
    change = memtable.undo_of(META, b"b")
    memtable.set(META, b"b", None)
    memtable.undo([change])
    assert (memtable.dirty, memtable.age) == (True, 2)


def test_a_row_can_be_dropped() -> None:
    """A row that is dropped leaves the active layer, its memory too, and stays in the sealed."""
    memtable = Memtable()
    memtable.set(META, b"a", b"1")
    memtable.seal()
    memory = memtable.memory
    memtable.set(META, b"b", b"2")
    memtable.drop(META, b"b")
    memtable.drop(META, b"a")
    assert rows_of(memtable) == {b"a": b"1"}
    assert memtable.memory == memory
    assert memtable.sealed(META, b"a") == b"1"
    assert isinstance(memtable.sealed(META, b"b"), Unchanged)


def test_one_look_walks_over_a_page_of_deletions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes come a page at a time, deletions included, with the key where the next begins."""
    monkeypatch.setattr(memtable_module, "CHANGES_PAGE", 3)
    memtable = Memtable()
    for key in b"abcd":
        memtable.set(META, bytes([key]), None)
    memtable.set(META, b"e", b"1")
    changed, end = memtable.changes(META, b"", b"\xff", 1)
    assert (changed, end) == (dict.fromkeys((b"a", b"b", b"c")), b"c\0")
    changed, end = memtable.changes(META, end, b"\xff", 1)
    assert (changed, end) == ({b"d": None, b"e": b"1"}, b"e\0")


def test_an_undo_restores_what_each_row_was() -> None:
    """Undone in reverse, a row changed twice is as before, and a new row hides nothing.

    A record whose change was never made undoes nothing.
    """
    memtable = Memtable()
    memtable.set(META, b"a", b"1")
    memtable.set(META, b"gone", None)
    memtable.seal()
    memtable.set(META, b"b", b"1")
    changes = [
        (b"b", b"2"),
        (b"b", None),
        (b"a", None),
        (b"gone", b"back"),
        (b"new", b"1"),
        (b"new", None),
    ]
    undo = []
    for key, value in changes:
        undo.append(memtable.undo_of(META, key))
        memtable.set(META, key, value)
    undo.append(memtable.undo_of(META, b"not made"))
    memtable.undo(undo)
    assert rows_of(memtable) == {b"a": b"1", b"b": b"1", b"gone": None}
    assert isinstance(memtable.get(META, b"new"), Unchanged)
    assert len(memtable) == 1


KEYS = st.integers(0, 20).map(lambda number: bytes([number]))
ROWS = st.dictionaries(KEYS, st.none() | st.binary(min_size=1, max_size=1))


@given(sealed=ROWS, active=ROWS, low=KEYS, high=KEYS, limit=st.integers(1, 5))
def test_changes_are_complete_up_to_the_returned_key(
    sealed: dict[bytes, bytes | None],
    active: dict[bytes, bytes | None],
    low: bytes,
    high: bytes,
    limit: int,
) -> None:
    """A limit counts rows with a value; deletions before the last one are all there."""
    memtable = Memtable()
    for key, value in sealed.items():
        memtable.set(META, key, value)
    memtable.seal()
    for key, value in active.items():
        memtable.set(META, key, value)
    merged = {**sealed, **active}
    changed, stop = memtable.changes(META, low, high, limit)
    expected = {key: merged[key] for key in sorted(merged) if low <= key < stop}
    assert list(changed.items()) == list(expected.items())
    values = sum(value is not None for value in changed.values())
    assert values == limit if stop != high else values <= limit
    assert stop <= max(low, high)


@given(sealed=ROWS, active=ROWS, key=KEYS, low=KEYS)
def test_floors_are_those_of_each_layer(
    sealed: dict[bytes, bytes | None], active: dict[bytes, bytes | None], key: bytes, low: bytes
) -> None:
    """Each layer gives its last key in the range, bounds included, whether deleted or not."""
    memtable = Memtable()
    for each, value in sealed.items():
        memtable.set(META, each, value)
    memtable.seal()
    for each, value in active.items():
        memtable.set(META, each, value)
    inside = [[each for each in layer if low <= each <= key] for layer in (active, sealed)]
    assert memtable.floor_keys(META, key, low) == [max(keys) for keys in inside if keys]
