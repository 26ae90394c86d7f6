"""Calls run on threads, and their results are handled here, in the order of the calls."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.jobs.optimize.pipeline import Pipeline
from tests.support.served_store import DEADLINE

THREADS: Final = 3


class Handled:
    """The results that were handled, in their order, and the threads that did it."""

    def __init__(self) -> None:
        self.results: list[object] = []
        self.threads: set[int] = set()

    def __call__(self, future: Future[int]) -> None:
        error = future.exception()
        self.results.append(future.result() if error is None else error)
        self.threads.add(threading.get_ident())


@pytest.fixture
def handled() -> Handled:
    return Handled()


@pytest.fixture
def pipeline() -> Iterator[Pipeline[int]]:
    """A pipeline of three threads, ahead of which as many results wait."""
    with closing(Pipeline[int](THREADS, ahead=THREADS)) as pipeline:
        yield pipeline


def constant(number: int) -> int:
    return number


def waiting_for(event: threading.Event) -> None:
    assert event.wait(DEADLINE), "never let go"


def test_results_are_in_the_order_of_the_calls(pipeline: Pipeline[int], handled: Handled) -> None:
    """Calls that end in the reverse order are handled in theirs, on the thread of the owner."""
    ends = [threading.Event() for _ in range(THREADS + 1)]
    ends[-1].set()
    ended: list[int] = []
    threads: set[int] = set()

    def call(number: int) -> int:
        waiting_for(ends[number + 1])  # that of the next call
        ended.append(number)
        threads.add(threading.get_ident())
        ends[number].set()
        return number

    for number in range(THREADS):
        pipeline.add(partial(call, number), handled)
    pipeline.drain()
    assert ended == [2, 1, 0]
    assert handled.results == [0, 1, 2]
    assert handled.threads == {threading.get_ident()}
    assert len(threads) == THREADS
    assert threading.get_ident() not in threads


@given(st.integers(1, 4), st.integers(0, 5), st.lists(st.integers(0, 6) | st.none(), max_size=20))
def test_few_results_wait(threads: int, ahead: int, steps: list[int | None]) -> None:
    """After each call no more than `ahead` results wait; a drain leaves as many as it was given."""
    handled, added, left = Handled(), 0, 0
    with closing(Pipeline[int](threads, ahead)) as pipeline:
        for keep in steps:
            if keep is None:
                pipeline.add(partial(constant, added), handled)
                added, left = added + 1, min(left + 1, ahead)
            else:
                pipeline.drain(keep)
                left = min(left, keep)
            assert handled.results == list(range(added - left))
        pipeline.drain()
    assert handled.results == list(range(added))


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()], ids=repr)
def test_an_error_of_a_call_is_its_result(
    pipeline: Pipeline[int], handled: Handled, error: BaseException
) -> None:
    """A call that raises ends no other one: its handler gets the exception, in its turn."""

    def fails() -> int:
        raise error

    for call in (partial(constant, 1), fails, partial(constant, 2)):
        pipeline.add(call, handled)
    pipeline.drain()
    assert handled.results == [1, error, 2]


@pytest.mark.parametrize("ahead", [0, THREADS])
def test_an_error_of_a_handler_is_raised_once(handled: Handled, ahead: int) -> None:
    """`add` or `drain` raises it; the next drain goes on with the result behind."""

    def fails(future: Future[int]) -> None:
        raise OSError(f"cannot append {future.result()}")

    with closing(Pipeline[int](THREADS, ahead)) as pipeline:
        pipeline.add(partial(constant, 1), handled)
        if ahead == 0:
            with pytest.raises(OSError, match="cannot append 2"):
                pipeline.add(partial(constant, 2), fails)
            pipeline.add(partial(constant, 3), handled)
        else:
            pipeline.add(partial(constant, 2), fails)
            pipeline.add(partial(constant, 3), handled)
            with pytest.raises(OSError, match="cannot append 2"):
                pipeline.drain()
        pipeline.drain()
    assert handled.results == [1, 3]


@pytest.fixture
def single() -> Iterator[Pipeline[int]]:
    """A pipeline of one thread."""
    with closing(Pipeline[int](1, ahead=5)) as pipeline:
        yield pipeline


def test_dropped_calls_do_not_run(single: Pipeline[int], handled: Handled) -> None:
    """Calls that have not begun are cancelled; the result of the one under way is discarded."""
    begun, go = threading.Event(), threading.Event()
    ran: list[int] = []

    def first() -> int:
        begun.set()
        waiting_for(go)
        ran.append(0)
        return 0

    def later(number: int) -> int:
        ran.append(number)
        return number

    single.add(first, handled)
    waiting_for(begun)
    for number in (1, 2):
        single.add(partial(later, number), handled)
    single.drop()
    go.set()
    single.add(partial(later, 3), handled)
    single.drain()
    assert ran == [0, 3]
    assert handled.results == [3]


def test_a_drop_of_finished_calls_discards_their_results(
    single: Pipeline[int], handled: Handled
) -> None:
    """No result is handled after a drop, and a second drop has nothing to do."""
    ended = threading.Event()

    def last() -> int:
        ended.set()
        return 2

    single.add(partial(constant, 1), handled)
    single.add(last, handled)
    waiting_for(ended)
    single.drop()
    single.drop()
    single.drain()
    assert handled.results == []


def test_a_close_waits_for_the_call_under_way(single: Pipeline[int], handled: Handled) -> None:
    """At the end, the call under way ends, no other one begins, and the thread is gone."""
    begun, go = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []
    ran: list[int] = []

    def first() -> int:
        threads.append(threading.current_thread())
        begun.set()
        waiting_for(go)
        ran.append(0)
        return 0

    single.add(first, handled)
    single.add(partial(ran.append, 1), handled)  # type: ignore[arg-type]
    waiting_for(begun)
    (_, (second, _)) = vars(single)["_waiting"]
    second.add_done_callback(lambda _: go.set())  # the close cancels it, and waits for the first
    single.close()
    assert ran == [0]
    assert second.cancelled()
    assert not threads[0].is_alive()
    assert handled.results == []
    with pytest.raises(RuntimeError):
        single.add(partial(constant, 1), handled)
