"""The signals that a program has got while it waits for an answer of the mount.

While a request is under way, the kernel does not deliver signals to the program, not even SIGKILL.
It asks the file system to interrupt the request (FUSE_INTERRUPT), but libfuse's Python interface
does not pass that on. So a request that waits looks into proc(5).

A signal that a program catches does not end it, and on a disk it interrupts no write: signal(7).
FUSE cannot restart a request after the handler, as SA_RESTART asks for. So such a signal waits as
long as the request. Ctrl-C is an exception: programs catch it to end in an orderly way, Python
among them, and a user waits for that at the terminal. Their write gets EINTR.

The interface does not pass on who writes either, so a write waits for the program that opened the
file. If that has started another with the open descriptor, a signal that ends the other ends no
wait. All programs with the descriptor could be found in proc(5), but not which of them waits: the
kernel holds up the second writer of a file behind the first, and both look the same. An interrupted
write of a program that is not being ended would be worse than a wait that is too long.

A thread may open a file for others and end, so the process of the thread is looked up when the wait
begins.

Example. A program with handlers of SIGHUP and SIGINT waits for room. SIGHUP, to read its
configuration again, is delivered after the write. At Ctrl-C the write fails with EINTR.
"""

import signal
from typing import Final

from modelfs import proc

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
    """Whether a signal is pending that ends a program, or Ctrl-C; False if that is not known.

    Args:
        pid: of the program, or of one of its threads.
    """
    status = _status(pid)

    def signals(*names: str) -> int:
        """Return the union of some sets of signals, as a mask."""
        union = 0
        for name in names:
            union |= int(status.get(name, "0"), 16)
        return union

    caught = signals("SigCgt") & ~_bit(signal.SIGINT)
    refused = signals("SigBlk", "SigIgn") | caught
    return bool(signals("SigPnd", "ShdPnd") & _MASK & ~refused)


def process_of(thread: int) -> int:
    """Return the process of a thread; the thread's own number if that is not known."""
    return int(_status(thread).get("Tgid", thread))


def _status(pid: int) -> dict[str, str]:
    """Return the fields of a process or thread in proc(5), none if it is not seen from here."""
    try:
        lines = proc.lines(pid, "status")
    except OSError:
        return {}
    return {name: value for name, _, value in (line.partition(":") for line in lines)}
