"""Operations that yield their slow calls, and the loop that drives them.

An operation of the store's owner may contain a call that waits for the disk. Such an operation is a
generator, and it yields each slow call as a function without arguments. The caller runs the
function, on any thread, and sends its result, or throws its exception, into the generator.
The same loop drives generators that yield steps in place of functions.

Example. `Flusher.flush` copies a file's state, yields the fdatasync of three staging files, and
then changes the index. `run_here` runs the fdatasync on the owner's thread. A daemon runs it on a
worker thread and serves requests meanwhile. If the disk is full, the error is raised at the
`yield`, and the index stays as it is.
"""

from collections.abc import Awaitable, Callable, Generator
from contextlib import closing
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")

Call = Callable[[], Any]
Calls = Generator[Call, Any, T]


async def drive_async(operation: Generator[S, Any, T], execute: Callable[[S], Awaitable[Any]]) -> T:
    """Run an operation to its end, and return its result.

    A cancelled operation gets the cancellation at its next step, after the call that a thread may
    be in.

    Args:
        operation: yields steps. Each one's result is sent into it, and its exception thrown.
        execute: executes a step, and returns its result.
    """
    with closing(operation):
        try:
            step = operation.send(None)
            while True:
                try:
                    result = await execute(step)
                except BaseException as exc:
                    step = operation.throw(exc)
                else:
                    step = operation.send(result)
        except StopIteration as end:
            value: T = end.value
            return value


def drive(operation: Generator[S, Any, T], execute: Callable[[S], Any]) -> T:
    """Do the same on this thread: `drive_async` with steps that never wait for an event loop."""

    async def executed(step: S) -> Any:
        return execute(step)

    try:
        drive_async(operation, executed).send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("a step that does not wait has waited")


def run_here(calls: Calls[T]) -> T:
    """Run an operation to its end on this thread, and return its result."""
    return drive(calls, lambda call: call())
