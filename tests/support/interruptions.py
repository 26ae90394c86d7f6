"""Exceptions and calls at each point of some code, as Ctrl-C and a signal handler may come."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

TraceFunction = Callable[[FrameType, str, Any], Any]


@contextmanager
def at_point(number: int, act: Callable[[], object], *modules: str) -> Iterator[list[str]]:
    """Call `act` before one instruction of the block, counted in these modules from 0 on.

    Yields a list that gets the place of that instruction. Calls inside `act` are not counted.
    """
    left = number
    places: list[str] = []

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        nonlocal left
        if not frame.f_code.co_filename.endswith(modules):
            return None
        frame.f_trace_opcodes = True
        if event in ("opcode", "call"):
            left -= 1
            if left == -1:
                name = Path(frame.f_code.co_filename).name
                places.append(f"{name}:{frame.f_lineno}")
                sys.settrace(None)
                act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield places
    finally:
        sys.settrace(before)


def interrupt() -> None:
    """Raise an exception as Ctrl-C does."""
    raise KeyboardInterrupt
