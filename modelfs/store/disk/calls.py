"""Slow calls in the middle of an operation.

An operation that belongs to the store's owner may have a part that waits for the disk. It is
written once, as a generator that yields that part as a call without arguments. The caller makes the
call, on any thread, before it goes on with the generator; if the call raises, it closes it.
"""

from collections.abc import Callable, Generator
from contextlib import closing

Call = Callable[[], None]
Calls = Generator[Call, None, None]


def run_here(calls: Calls) -> None:
    """Run an operation to its end on this thread."""
    with closing(calls):
        for call in calls:
            call()
