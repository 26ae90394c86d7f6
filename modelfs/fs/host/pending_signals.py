"""The signals that a program has got while it waits for an answer of the mount.

While a request is under way, the kernel does not deliver signals to the program, not even SIGKILL.
It asks the file system to interrupt the request (FUSE_INTERRUPT), but libfuse's Python interface
does not pass that on. So a request that waits looks into proc(5).

A signal that a program catches does not end it, and on a disk it interrupts no write: signal(7).
FUSE cannot restart a request after the handler, as SA_RESTART asks for. So such a signal waits as
long as the request. Ctrl-C is an exception: programs catch it to end in an orderly way, Python
among them, and a user waits for that at the terminal. Their write gets EINTR.

Example. A program with handlers of SIGHUP and SIGINT waits for room. SIGHUP, to read its
configuration again, is delivered after the write. At Ctrl-C the write fails with EINTR.
"""

import signal
from pathlib import Path
from typing import Final

# Signals that end a program, if it does not ignore them. SIGKILL is in the mask of each thread of a
# program that any other signal ends, too.
ENDING: Final = (
    signal.SIGKILL,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
)


def _bit(number: int) -> int:
    return 1 << (number - 1)


_MASK: Final = sum(map(_bit, ENDING))


def is_ending(pid: int) -> bool:
    """Whether a signal is pending that ends a program, or Ctrl-C; False if that is not known."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    masks = {
        name: int(value, 16)
        for name, _, value in (line.partition(":") for line in status.splitlines())
        if name in {"SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"}
    }
    pending = masks.get("SigPnd", 0) | masks.get("ShdPnd", 0)
    caught = masks.get("SigCgt", 0) & ~_bit(signal.SIGINT)
    refused = masks.get("SigBlk", 0) | masks.get("SigIgn", 0) | caught
    return bool(pending & _MASK & ~refused)
