"""One run of a computation for all threads that need its result at the same time."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import pytest

from modelfs.store.chunks.single_flight import SingleFlight

PATIENCE: Final = 30.0  # seconds
WAITING: Final = 3  # threads that come during a run


class CountingLock:
    """A lock that counts how often it was released."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.released = threading.Semaphore(0)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self.released.release()


@pytest.fixture
def flight(monkeypatch: pytest.MonkeyPatch) -> SingleFlight[int, str]:
    flight: SingleFlight[int, str] = SingleFlight()
    monkeypatch.setattr(flight, "_lock", CountingLock())
    return flight


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(WAITING + 1) as pool:
        yield pool


def wait_for(flight: SingleFlight[int, str], callers: int) -> None:
    """Wait until so many callers have looked for a run of their key."""
    lock: CountingLock = flight._lock  # type: ignore[assignment]
    for _ in range(callers):
        assert lock.released.acquire(timeout=PATIENCE)


def crowd(
    flight: SingleFlight[int, str], pool: ThreadPoolExecutor, work: Callable[[], str]
) -> list[Future[str]]:
    """Let threads ask for the key 7 while the first of them runs `work`; return their futures."""
    go_on = threading.Event()

    def slow() -> str:
        assert go_on.wait(PATIENCE)
        return work()

    futures = [pool.submit(flight.do, 7, slow)]
    wait_for(flight, 1)
    futures += [pool.submit(flight.do, 7, lambda: "a run of its own") for _ in range(WAITING)]
    wait_for(flight, WAITING)
    go_on.set()
    return futures


def test_one_run_serves_all_who_wait(
    flight: SingleFlight[int, str], pool: ThreadPoolExecutor
) -> None:
    """Threads that come during a run get its result; a later caller runs once more."""
    futures = crowd(flight, pool, lambda: "result")
    assert [future.result(PATIENCE) for future in futures] == ["result"] * (WAITING + 1)
    assert flight.do(7, lambda: "later") == "later"


@pytest.mark.parametrize("error", [OSError("broken"), KeyboardInterrupt()], ids=repr)
def test_an_error_reaches_all_who_wait_and_none_after(
    flight: SingleFlight[int, str], pool: ThreadPoolExecutor, error: BaseException
) -> None:
    """The exception of a run is that of all its callers; the next caller runs once more."""

    def failing() -> str:
        raise error

    for future in crowd(flight, pool, failing):
        assert future.exception(PATIENCE) is error
    assert flight.do(7, lambda: "later") == "later"


def test_runs_of_different_keys_do_not_wait_for_each_other(
    flight: SingleFlight[int, str], pool: ThreadPoolExecutor
) -> None:
    """A run may need that of another key, as a derived chunk needs its source."""
    future = pool.submit(flight.do, 7, lambda: flight.do(8, lambda: "inner") + " and outer")
    assert future.result(PATIENCE) == "inner and outer"


def test_a_caller_that_has_a_result_starts_a_new_run(flight: SingleFlight[int, str]) -> None:
    """The key is free before its result is there: no caller gets the result of an older run."""
    future: Future[str] = Future()
    seen: list[str] = []
    future.add_done_callback(lambda _: seen.append(flight.do(7, lambda: "new")))
    real, made = Future, [future]

    def first_observed() -> Future[str]:
        return made.pop() if made else real()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modelfs.store.chunks.single_flight.Future", first_observed)
        assert flight.do(7, lambda: "old") == "old"
    assert seen == ["new"]
