"""The signals that a program has got while it waits for an answer of the mount.

While a request is under way, the kernel does not deliver signals to the program, not even SIGKILL.
It asks the file system to interrupt the request (FUSE_INTERRUPT), but libfuse's Python interface
does not pass that on. So a request that waits looks into proc(5).
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
_MASK: Final = sum(1 << (number - 1) for number in ENDING)


def is_ending(pid: int) -> bool:
    """Whether a signal is pending that ends a program; False if that is not known."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    masks = {
        name: int(value, 16)
        for name, _, value in (line.partition(":") for line in status.splitlines())
        if name in {"SigPnd", "ShdPnd", "SigBlk", "SigIgn"}
    }
    pending = masks.get("SigPnd", 0) | masks.get("ShdPnd", 0)
    refused = masks.get("SigBlk", 0) | masks.get("SigIgn", 0)
    return bool(pending & _MASK & ~refused)
