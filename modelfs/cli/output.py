"""Standard output, whose errors end a command as those of other tools do.

Python's own stream raises `OSError`, as the store's disk does, and reports bytes that it cannot
write with a message of its own at the end of the process.

Example. `modelfs stats ~/models >/dev/full` ends with 1 and "write error: No space left on device".
In `modelfs stats ~/models | head -n 1`, the command ends by SIGPIPE, without a message.
"""

import io
import os
import sys
from typing import Any

from modelfs.cli.failure import Failure


class ClosedPipe(Exception):
    """The reader of the output has ended."""


def replace_stdout() -> None:
    """Let `sys.stdout` raise `ClosedPipe` and `Failure`; do nothing if the stream is closed."""
    if (old := sys.stdout) is None:
        return
    old.flush()
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(old.fileno(), "wb", closefd=False)),
        encoding=old.encoding,
        errors=old.errors,
        line_buffering=old.isatty(),
    )


class _Output(io.FileIO):
    """A file that accepts and drops all bytes after its first error."""

    _failed = False

    def write(self, data: Any, /) -> int:
        if self._failed:
            return memoryview(data).nbytes
        try:
            return super().write(data) or 0
        except BrokenPipeError as exc:
            self._failed = True
            raise ClosedPipe from exc
        except OSError as exc:
            self._failed = True
            raise Failure(f"write error: {os.strerror(exc.errno or 0)}") from exc
