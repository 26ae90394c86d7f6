"""The memtable: two layers over LMDB's rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.store.index import memtable as memtable_module
from modelfs.store.index.memtable import ChangedRows, Memtable, Unchanged
from modelfs.store.index.tables import Table

META = Table.META


def rows_of(memtable: Memtable) -> dict[bytes, bytes | None]:
    *_, layers = memtable.live(META, b"", b"\xff", 1)
    return {key: value for rows in reversed(layers) for key, value in rows.items()}


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


def test_no_change_is_older_than_the_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dropped row still counts for the age: the oldest change is as old, or younger."""
    now = 10.0
    monkeypatch.setattr(memtable_module, "monotonic", lambda: now)
    memtable = Memtable()
    memtable.set(META, b"a", b"1")
    now = 15.0
    memtable.set(META, b"b", b"2")
    memtable.drop(META, b"a")
    assert (memtable.dirty, memtable.age) == (True, 5)


def test_a_row_can_be_dropped() -> None:
    """A row that is dropped leaves the active layer, its memory too, and stays in the sealed."""
    memtable = Memtable()
    memtable.set(META, b"a", b"1")
    memtable.seal()
    memory = memtable.memory
    memtable.set(META, b"b", b"2")
    memtable.set(META, b"a", b"2")
    memtable.drop(META, b"b")
    memtable.drop(META, b"a")
    assert rows_of(memtable) == {b"a": b"1"}
    assert memtable.memory == memory
    assert memtable.sealed(META, b"a") == b"1"
    assert isinstance(memtable.sealed(META, b"b"), Unchanged)


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


def memtable_of(sealed: dict[bytes, bytes | None], active: dict[bytes, bytes | None]) -> Memtable:
    memtable = Memtable()
    for key, value in sealed.items():
        memtable.set(META, key, value)
    memtable.seal()
    for key, value in active.items():
        memtable.set(META, key, value)
    return memtable


@given(sealed=ROWS, active=ROWS, low=KEYS, high=KEYS, limit=st.integers(1, 5))
def test_live_rows_are_complete_up_to_the_returned_key(
    sealed: dict[bytes, bytes | None],
    active: dict[bytes, bytes | None],
    low: bytes,
    high: bytes,
    limit: int,
) -> None:
    """The first rows with a value come in order; the layers have the deletions, too."""
    merged = {**sealed, **active}
    rows, stop, layers = memtable_of(sealed, active).live(META, low, high, limit)
    expected = [
        (key, value)
        for key, value in sorted(merged.items())
        if low <= key < stop and value is not None
    ]
    assert list(rows.items()) == expected
    assert len(rows) == limit if stop != high else len(rows) <= limit
    assert stop <= max(low, high)
    assert layers == tuple(filter(None, (active, sealed)))


@given(sealed=ROWS, active=ROWS, key=KEYS, low=KEYS)
def test_the_live_floor_is_the_last_key_with_a_value(
    sealed: dict[bytes, bytes | None], active: dict[bytes, bytes | None], key: bytes, low: bytes
) -> None:
    """A sealed row counts unless the active layer has deleted it; bounds are included."""
    merged = {**sealed, **active}
    inside = [each for each in merged if low <= each <= key and merged[each] is not None]
    floor, _ = memtable_of(sealed, active).live_floor(META, key, low)
    assert floor == max(inside, default=None)


@given(st.lists(st.tuples(KEYS, st.none() | st.just(b"1") | st.just(b"2"), st.booleans())))
def test_changed_rows_are_a_dict_with_sorted_keys(
    changes: list[tuple[bytes, bytes | None, bool]],
) -> None:
    """After any changes and drops, keys of values and of deletions are sorted, each apart."""
    rows, expected = ChangedRows(), dict[bytes, bytes | None]()
    for key, value, dropped in changes:
        if dropped and key in expected:
            assert rows.drop(key) == expected.pop(key)
        else:
            rows.change(key, value)
            expected[key] = value
    assert rows == expected
    assert list(rows.live) == sorted(key for key, value in rows.items() if value is not None)
    assert list(rows.deleted) == sorted(key for key, value in rows.items() if value is None)
