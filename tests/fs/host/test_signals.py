"""Signals that a block receives."""

import os
import signal
from collections.abc import Iterator

import pytest
import trio

from modelfs.fs.host.signals import received

ONE, OTHER = signal.SIGUSR1, signal.SIGUSR2


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handlers of before are set again."""
    before = {number: signal.getsignal(number) for number in (ONE, OTHER)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_signals_are_received() -> None:
    """The block gets each signal that comes in it."""
    with trio.fail_after(5), received([ONE, OTHER]) as signals:
        for number in (ONE, OTHER, ONE):
            os.kill(os.getpid(), number)
            assert await anext(signals) == number


@pytest.mark.parametrize("at", [1, 2], ids=["behind the first handler", "behind the last"])
async def test_none_is_lost_while_handlers_change(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """A signal that comes while the block is entered is received in it."""
    set_handler, calls = signal.signal, 0

    def set_with_a_signal(number: signal.Signals, handler: signal.Handlers) -> object:
        nonlocal calls
        calls += number == ONE
        before = set_handler(number, handler)
        if number == ONE and calls == at:
            os.kill(os.getpid(), number)
        return before

    monkeypatch.setattr(signal, "signal", set_with_a_signal)
    with trio.fail_after(5), received([ONE]) as signals:
        assert calls >= at
        assert await anext(signals) == ONE


async def test_a_signal_that_is_left_has_no_effect() -> None:
    """A signal that the block did not take, or that comes after it, does not end the process."""
    with received([ONE]):
        os.kill(os.getpid(), ONE)
    os.kill(os.getpid(), ONE)


async def test_an_error_in_the_block() -> None:
    """A signal after a block that an exception ended has no effect, either."""
    with pytest.raises(ValueError, match="mine"), received([ONE]):
        raise ValueError("mine")
    os.kill(os.getpid(), ONE)
