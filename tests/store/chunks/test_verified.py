"""Places of stored bytes that were verified a short time ago."""

import time

import pytest

from modelfs.store.chunks.verified import TRUST_SECONDS, Place, Verified
from modelfs.store.index.tables import PackId

ONE = PackId(1), 4096
TWO = PackId(1), 8192
THREE = PackId(2), 4096


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, which stands still."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_place_is_trusted_for_a_while(clock: list[float]) -> None:
    """A place counts for `TRUST_SECONDS` after its last verification, and then no more."""
    places: Verified[Place] = Verified()
    places.add(ONE)
    clock[0] += TRUST_SECONDS - 1
    assert ONE in places
    places.add(ONE)
    clock[0] += TRUST_SECONDS - 1
    assert ONE in places
    clock[0] += 1
    assert ONE not in places


def test_a_place_is_a_pack_and_an_offset(clock: list[float]) -> None:
    """Neither the same offset of another pack nor another offset is trusted."""
    places: Verified[Place] = Verified()
    places.add(ONE)
    assert TWO not in places
    assert THREE not in places
    places.discard(THREE)
    places.discard(ONE)
    assert ONE not in places


def test_the_first_verified_places_are_forgotten_first(clock: list[float]) -> None:
    """No more than `capacity` places are remembered."""
    places: Verified[Place] = Verified(2)
    for place in (ONE, TWO, THREE):
        places.add(place)
    assert [place in places for place in (ONE, TWO, THREE)] == [False, True, True]
