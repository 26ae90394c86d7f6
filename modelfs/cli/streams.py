"""The standard streams of the process.

Init scripts, cron daemons and launchers may start a program with some of them closed. The next file
that is opened would take the free number, and a message to stderr would be written into it.
"""

import io
import os
import sys


def open_closed_streams() -> None:
    """Open /dev/null in the place of each closed standard stream; let others take any bytes.

    Call it before any other file is opened.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            # A path that is not UTF-8 is printed with the bytes that it has.
            stream.reconfigure(errors="surrogateescape")
        elif stream is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
