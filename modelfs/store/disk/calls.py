"""Slow calls in the middle of an operation.

An operation of the store's owner may contain a call that waits for the disk. Such an operation is a
generator, and it yields each slow call as a function without arguments. The caller runs the
function, on any thread, and then resumes the generator. If the function raises, the caller closes
the generator.

Example. `Flusher.flush` copies a file's state, yields the fdatasync of three staging files, and
then changes the index. `run_here` runs the fdatasync on the owner's thread. A daemon runs it on a
worker thread and serves requests meanwhile.
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
