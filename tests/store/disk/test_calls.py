"""Slow calls in the middle of an operation."""

import pytest

from modelfs.store.disk.calls import Calls, run_here


def operation(log: list[str], *names: str) -> Calls[None]:
    """Log the calls of an operation, and the code between them."""
    try:
        for name in names:
            log.append(f"before {name}")
            yield lambda name=name: log.append(name)  # type: ignore[misc]
        log.append("end")
    finally:
        log.append("closed")


def test_calls_run_between_the_parts_of_an_operation() -> None:
    """Each call is made before the operation goes on."""
    log: list[str] = []
    run_here(operation(log, "sync", "write"))
    assert log == ["before sync", "sync", "before write", "write", "end", "closed"]


def test_results_and_errors_come_back() -> None:
    """The result of a call, or its exception, comes back at the `yield`."""

    def parse() -> Calls[list[int]]:
        first = yield lambda: int("7")
        try:
            yield lambda: int("seven")
        except ValueError:
            second = yield lambda: 8
        return [first, second]

    assert run_here(parse()) == [7, 8]


def test_an_operation_whose_call_fails_is_closed() -> None:
    """A call that raises ends the operation, which cleans up, and the caller gets the error."""
    log: list[str] = []

    def failing() -> Calls[None]:
        try:
            yield lambda: list[int]().remove(1)
            log.append("went on")
        finally:
            log.append("closed")

    calls = failing()
    with pytest.raises(ValueError, match="remove"):
        run_here(calls)
    assert log == ["closed"]
