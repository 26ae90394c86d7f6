"""Signals that end the daemon, from its start to its end."""

import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

import trio


@contextmanager
def received(numbers: Sequence[signal.Signals]) -> Iterator[AsyncIterator[int]]:
    """Receive signals inside the block; after it they are ignored.

    None is lost: they are blocked while their handlers change. Those that come in the block and are
    not taken from the iterator have no effect.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        # trio sets the handlers that it found again, and raises the signals that are left.
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        with trio.open_signal_receiver(*numbers) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
            yield signals
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
