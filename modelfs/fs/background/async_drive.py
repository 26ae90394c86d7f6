"""The asynchronous twin of `store.disk.calls.drive`."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import closing
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")


async def drive(operation: Generator[S, Any, T], execute: Callable[[S], Awaitable[Any]]) -> T:
    """Run an operation to its end, and return its result.

    A cancelled operation gets `trio.Cancelled` at its next step, after the call that a thread may
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
