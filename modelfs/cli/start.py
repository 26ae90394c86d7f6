"""Where the commands `modelfs` and `mount.modelfs` begin: Ctrl-C ends them quietly from here on.

The modules of a command take some 50 ms to load, and Ctrl-C would end an import with a traceback.
This module imports none of them before it has replaced Python's handler, and a command gets that
handler back where it catches its exception. Before this module there is only Python's own start, of
some 15 ms (Python 3.11; two thirds are the finder of an editable installation): Ctrl-C is then a
traceback of Python, and the process ends by SIGINT. No program in Python can change that.

Example. Ctrl-C comes 20 ms after `modelfs stats ~/models` has begun, while click is imported. The
process ends with 130, as it does later, and prints nothing.
"""

import os
import signal
from importlib import import_module
from types import FrameType, ModuleType

# That of `failure.Code`. It is not `Final`, since `typing` would take 12 ms to load.
INTERRUPTED = 130


def main() -> None:
    """Run `modelfs`, and end the process with its exit code."""
    _load("modelfs.cli.main").main()


def mount_helper() -> None:
    """Run `mount.modelfs`, and end the process with its exit code."""
    _load("modelfs.cli.mount_helper").main()


def _load(module: str) -> ModuleType:
    """Import the module of a command."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored
        signal.signal(signal.SIGINT, _end)
    return import_module(module)


def raise_interrupts() -> None:
    """Let Ctrl-C raise KeyboardInterrupt from now on, if it ends the process until now."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
