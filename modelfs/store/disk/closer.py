"""Closing descriptors for certain, even when Ctrl-C comes between open(2) and an assignment."""

import os
from collections import deque
from collections.abc import Callable
from functools import partial


def closer(opened: list[int]) -> Callable[[], object]:
    """Return a function that closes the descriptors in a list, once.

    A number goes into the list by `opened.extend(map(os.open, ...))`, and is closed here, in one
    call of C code each. Ctrl-C comes between such calls, so it cannot lose the number.
    """
    return partial(deque, map(os.close, opened), 0)
