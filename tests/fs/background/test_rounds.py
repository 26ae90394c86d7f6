"""Rounds that make room for requests that wait."""

import pytest

from modelfs.errors import StoreFull
from modelfs.fs.background.borrowers import StoredFiles
from modelfs.fs.background.loans import Loans
from modelfs.fs.background.rounds import RoundResult, Rounds
from tests.support.served_store import DATA, OTHER, Failing, Served, is_chunked


@pytest.fixture
def loans(served: Served) -> Loans:
    store = served.store
    files = StoredFiles(store, served.context().driver.call)
    return Loans(store.space, lambda: store.staging.bytes, files)


@pytest.fixture
def rounds(served: Served, loans: Loans) -> Rounds:
    background = served.background
    return Rounds(served.context(), background.ingest, background.gc, background.optimize, loans)


async def test_all_staged_bytes_are_ingested(served: Served, rounds: Rounds) -> None:
    """A round makes chunks of files that are being written, too, and commits them."""
    closed = await served.written(b"closed", DATA)
    _, handle = await served.created(b"written", OTHER)
    assert (await rounds.make_room()).made_room
    assert is_chunked(served, closed)
    assert not served.store.staging.bytes
    assert not served.store.index.dirty
    await served.operations.release(handle)


async def test_only_the_reserve_is_left(
    served: Served, rounds: Rounds, loans: Loans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round that made no room for writers opens a loan, and one that made some ends it."""
    with monkeypatch.context() as patch:
        patch.setattr(served.store.space, "writable_bytes", lambda: 0)
        assert await rounds.make_room() == RoundResult(made_room=True, grew=False)
        assert loans.borrow(1)
        served.store.space.arrive(1, 0)
    assert (await rounds.make_room()).made_room
    assert not loans.borrow(1)


@pytest.mark.parametrize("error", [KeyError("bug"), StoreFull("full")])
async def test_a_step_that_fails_ends_no_round(
    served: Served,
    rounds: Rounds,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """After a step that fails, the next steps make room; an unknown failure is in the log."""
    inode = await served.written(b"f", DATA)
    failing = Failing(served.background.gc.remove_orphans, error)
    monkeypatch.setattr(served.background.gc, "remove_orphans", failing)
    assert (await rounds.make_room()).made_room
    assert failing.calls == 1
    assert is_chunked(served, inode)
    assert ("bug" in caplog.text) == isinstance(error, KeyError)
    caplog.clear()
