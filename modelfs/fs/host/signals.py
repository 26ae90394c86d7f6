"""Signals that end the daemon, from its start to its end."""

import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

import trio


@contextmanager
def received(numbers: Sequence[signal.Signals]) -> Iterator[AsyncIterator[int]]:
    """Receive signals inside the block; after it they have no effect.

    None is lost while their handlers change. Those that come in the block and are not taken from
    the iterator have no effect.
    """
    # Not by blocking them: another thread of the process would take them meanwhile.
    early: list[int] = []
    for number in numbers:
        signal.signal(number, lambda number, _: early.append(number))
    # At its end, trio sets these handlers again, and raises the signals that are left.
    with trio.open_signal_receiver(*numbers) as signals:
        for came in early:
            signal.raise_signal(came)
        yield signals
