"""How a reader without slots in the index's lock file keeps writers out."""

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.errors import NoSlots, StoreBusy
from modelfs.store import exclusion as exclusion_module
from modelfs.store.disk.directory import Directory
from modelfs.store.folder import is_locked, lock
from modelfs.store.index import environment
from modelfs.store.store import Store
from tests.support.stores import new_store


@pytest.fixture
def without_slots(tmp_path: Path) -> Iterator[Store]:
    """A store that was opened without permission to write the index's lock file."""
    path = new_store(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exclusion_module, "may_lock", lambda _: False)
        patch.setattr(environment, "may_lock", lambda _: False)
        store = Store(path, read_only=True)
    with store:
        store.unlock()
        yield store


def excludes_writers(store: Store) -> bool:
    try:
        lock(Directory(store.folder), fcntl.LOCK_EX).close()
    except StoreBusy:
        return True
    return False


def test_writers_are_excluded_during_a_call(without_slots: Store) -> None:
    """Without slots each call has a lock; at its end or after an error none is left."""

    def call() -> None:
        with without_slots.exclusion.excluding_writers():
            assert excludes_writers(without_slots)
            raise ValueError("an error")

    assert not excludes_writers(without_slots)
    with pytest.raises(ValueError, match="an error"):
        call()
    assert not excludes_writers(without_slots)


def test_a_writer_excludes_calls(without_slots: Store) -> None:
    """The error has the next step: the permission that the reader lacks."""
    with lock(Directory(without_slots.folder), fcntl.LOCK_EX):
        assert is_locked(Directory(without_slots.folder))
        exclusion = without_slots.exclusion.excluding_writers()
        with pytest.raises(NoSlots, match=r"permission to write /.*/index/lock\.mdb"), exclusion:
            pass


def test_all_exclusions_end_at_once(without_slots: Store) -> None:
    """As in a forked child, in which other threads' calls never end."""
    with without_slots.exclusion.excluding_writers():
        without_slots.exclusion.end_all()
        assert not excludes_writers(without_slots)


def test_slots_are_gained_with_the_permission(
    without_slots: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With slots, calls lock nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(exclusion_module, "may_lock", lambda _: False)
        assert not without_slots.exclusion.gain_slots()
    assert without_slots.exclusion.gain_slots()
    assert not without_slots.exclusion.gain_slots()
    with without_slots.exclusion.excluding_writers():
        assert not excludes_writers(without_slots)
