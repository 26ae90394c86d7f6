"""One run of a computation for all threads that need its result at the same time."""

import ast
import inspect
import os
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final

import pytest

from modelfs.store.chunks import single_flight
from modelfs.store.chunks.single_flight import SingleFlight
from tests.support.interruptions import at_point, interrupt

PATIENCE: Final = 30.0  # seconds
WAITING: Final = 3  # threads that come during a run


class CountingDict(dict[int, Any]):
    """A table of runs that counts how often a caller has looked for one."""

    def __init__(self) -> None:
        self.lookups = threading.Semaphore(0)

    def setdefault(self, key: int, default: Any = None) -> Any:
        run = super().setdefault(key, default)
        self.lookups.release()
        return run


@pytest.fixture
def flight(monkeypatch: pytest.MonkeyPatch) -> SingleFlight[int, str]:
    flight: SingleFlight[int, str] = SingleFlight()
    monkeypatch.setattr(flight, "_running", CountingDict())
    return flight


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(WAITING + 1) as pool:
        yield pool


def wait_for(flight: SingleFlight[int, str], callers: int) -> None:
    """Wait until so many callers have looked for a run of their key."""
    running = flight._running
    assert isinstance(running, CountingDict)
    for _ in range(callers):
        assert running.lookups.acquire(timeout=PATIENCE)


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


def test_an_error_reaches_all_who_wait_and_none_after(
    flight: SingleFlight[int, str], pool: ThreadPoolExecutor
) -> None:
    """The error of a run is that of all its callers; the next caller runs once more."""
    error = OSError("broken")

    def failing() -> str:
        raise error

    for future in crowd(flight, pool, failing):
        assert future.exception(PATIENCE) is error
    assert flight.do(7, lambda: "later") == "later"


def test_an_interruption_is_not_shared(
    flight: SingleFlight[int, str], pool: ThreadPoolExecutor
) -> None:
    """Ctrl-C reaches the thread that it came to; the others, which nobody interrupted, run."""

    def failing() -> str:
        raise KeyboardInterrupt

    first, *others = crowd(flight, pool, failing)
    assert isinstance(first.exception(PATIENCE), KeyboardInterrupt)
    assert [future.result(PATIENCE) for future in others] == ["a run of its own"] * WAITING


def test_a_run_inside_a_run(pool: ThreadPoolExecutor) -> None:
    """A signal handler in the middle of a run, on its thread, does not wait for that run."""
    flight: SingleFlight[int, str] = SingleFlight()
    future = pool.submit(flight.do, 7, lambda: flight.do(7, lambda: "inner") + " and outer")
    assert future.result(PATIENCE) == "inner and outer"


def test_runs_that_wait_for_each_other(pool: ThreadPoolExecutor) -> None:
    """Two threads, whose signal handlers need the other's run, or a thread and its helper."""
    flight: SingleFlight[int, str] = SingleFlight()
    both = threading.Barrier(2)

    def needs(other: int) -> str:
        both.wait(PATIENCE)
        return flight.do(other, lambda: "inner")

    futures = [pool.submit(flight.do, key, partial(needs, 15 - key)) for key in (7, 8)]
    assert all("inner" in future.result(PATIENCE) for future in futures)

    def help_out(employer: int) -> str:
        single_flight.EMPLOYERS[threading.get_ident()] = employer
        try:
            return flight.do(7, lambda: "helper")
        finally:
            del single_flight.EMPLOYERS[threading.get_ident()]

    def employ() -> str:
        return pool.submit(help_out, threading.get_ident()).result(PATIENCE)

    assert pool.submit(flight.do, 7, employ).result(PATIENCE) == "helper"
    assert not single_flight._awaited


def test_a_run_of_the_parent(pool: ThreadPoolExecutor) -> None:
    """A signal handler forks while its thread waits for another one, which the child lacks."""
    flight: SingleFlight[int, str] = SingleFlight()
    go_on = threading.Event()
    future = pool.submit(flight.do, 7, lambda: str(go_on.wait(PATIENCE)))
    while 7 not in flight._running:
        time.sleep(0.001)
    before = signal.signal(signal.SIGALRM, lambda *_: children.append(os.fork()))
    children: list[int] = []
    result = ""
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        threading.Timer(0.3, go_on.set).start()
        result = flight.do(7, lambda: "child")
    finally:
        if children == [0]:
            os._exit(0 if result == "child" else 1)
        signal.signal(signal.SIGALRM, before)
    assert (result, future.result(PATIENCE)) == ("True", "True")
    end = time.monotonic() + PATIENCE
    while (ended := os.waitpid(children[0], os.WNOHANG)) == (0, 0) and time.monotonic() < end:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(children[0], signal.SIGKILL)
        os.waitpid(children[0], 0)
    assert ended == (children[0], 0)


def test_runs_of_different_keys_do_not_wait_for_each_other(
    flight: SingleFlight[int, str], pool: ThreadPoolExecutor
) -> None:
    """A run may need that of another key, as a derived chunk needs its source."""
    future = pool.submit(flight.do, 7, lambda: flight.do(8, lambda: "inner") + " and outer")
    assert future.result(PATIENCE) == "inner and outer"


def test_a_caller_that_has_a_result_starts_a_new_run(flight: SingleFlight[int, str]) -> None:
    """The key is free before its result is there: no caller gets the result of an older run."""
    seen: list[str] = []

    class ObservedLock:
        """The lock of the first run; its release is observed."""

        def acquire(self) -> None:
            patch.undo()

        def release(self) -> None:
            seen.append(flight.do(7, lambda: "new"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single_flight, "Lock", ObservedLock)
        assert flight.do(7, lambda: "old") == "old"
    assert seen == ["new"]


def test_an_interruption_anywhere_leaves_no_run_behind(pool: ThreadPoolExecutor) -> None:
    """Ctrl-C at any point of a run ends it: the next caller does not wait for it."""
    cleanup = lines_of_cleanup()
    seen: set[str] = set()
    for point in range(10_000):
        flight: SingleFlight[int, str] = SingleFlight()
        with suppress(KeyboardInterrupt), at_point(point, interrupt, "single_flight.py") as places:
            flight.do(7, lambda: "result")
        if not places:
            break
        if int(places[0].partition(":")[2]) in cleanup:
            continue  # has no call, so no exception comes between its instructions
        later = pool.submit(flight.do, 7, lambda: "later")
        assert later.result(PATIENCE) == "later", places
        seen.update(places)
    assert point > 50
    assert len(seen) > 10


def lines_of_cleanup() -> range:
    """Return the lines of the `finally` in `SingleFlight.do`."""
    source, first = inspect.getsourcelines(SingleFlight.do)
    tree = ast.parse(textwrap.dedent("".join(source)))
    (guarded,) = (node for node in ast.walk(tree) if isinstance(node, ast.Try))
    start, stop = guarded.finalbody[0], guarded.finalbody[-1]
    return range(first - 1 + start.lineno, first + (stop.end_lineno or stop.lineno))
