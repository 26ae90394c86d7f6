"""The gate that keeps environments closed while the process forks."""

import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from modelfs.store.index.fork_gate import ForkGate

T = TypeVar("T")


def in_thread(call: Callable[[], T]) -> T:
    """Return the result of a call on another thread."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join(20)
    return results[0]


def nothing() -> None:
    """Prepare nothing."""


def test_it_is_closed_for_others_until_it_opens() -> None:
    """The thread that closed it passes; no other one passes, or closes it."""
    gate = ForkGate()
    assert not gate.blocks()
    assert gate.close(nothing)
    assert gate.is_closed()
    assert not gate.blocks()
    assert in_thread(gate.blocks)
    assert not in_thread(gate.is_closed)
    assert not in_thread(lambda: gate.close(nothing))
    assert gate.is_closed()
    gate.open()
    assert not gate.is_closed()
    assert not in_thread(gate.blocks)
    assert in_thread(lambda: gate.close(nothing))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TimeoutError()], ids=repr)
def test_an_interruption_opens_it(error: BaseException) -> None:
    """Others are not kept waiting, and it can be closed once more."""
    gate = ForkGate()

    def interrupted() -> None:
        assert in_thread(gate.blocks)
        raise error

    with pytest.raises(type(error)):
        gate.close(interrupted)
    assert not in_thread(gate.blocks)
    assert gate.close(nothing)


def test_a_fork_during_the_preparation_makes_it_void() -> None:
    """A signal handler that forks opens the gate, so environments may be open again."""
    gate = ForkGate()

    def fork() -> None:
        assert gate.close(nothing)
        gate.open()

    assert not gate.close(fork)
    assert not gate.is_closed()
