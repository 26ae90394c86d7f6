"""Starting a daemon in the background: the caller returns when it is ready, or gets its error.

The daemon is a child of the caller, in a session of its own. A pipe carries one message to the
caller: `READY`, a line with an error, or nothing if the daemon died. Until the daemon is ready its
stderr is a file in memory, because libfuse and fusermount3 write their explanations there only.
After that it is the log: LMDB and Python write there if damage ends the process.
"""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from modelfs.cli.failure import EXPECTED, Code, Failure, describe, interruptible

log = logging.getLogger(__name__)

READY: Final = b"ready"


def run_in_background(
    serve: Callable[[Callable[[], None]], None], begin_log: Callable[[], int], log_file: Path
) -> None:
    """Run `serve` in a process of its own, and return when it is ready.

    The process must not have started threads before.

    Args:
        serve: runs the daemon; it calls its argument when the daemon is ready.
        begin_log: called in the daemon, which has closed all files by then.
        log_file: of the daemon, for messages.

    Raises:
        Failure: the daemon failed before it was ready, or Ctrl-C ended it.
    """
    message_in, message_out = os.pipe()
    stderr = os.memfd_create("stderr")
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        os.close(message_in)
        _be_daemon(serve, _Caller(message_out), stderr, begin_log)
    os.close(message_out)
    with interruptible("nothing is mounted"):
        try:
            message = _read_all(message_in)
        except BaseException:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
            raise
    if message != READY:
        raise Failure(_explain(message, stderr, child, log_file))
    os.close(stderr)


class _Caller:
    """The daemon's end of the pipe to its caller."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe
        self.log = -1  # the log's descriptor, if there is a log

    def send(self, message: bytes) -> None:
        """Send the message, and direct stderr to the log; do nothing the second time."""
        if self.pipe >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(self.pipe, message)
            os.close(self.pipe)
            self.pipe = -1
            os.dup2(1 if self.log < 0 else self.log, 2)


def _be_daemon(
    serve: Callable[[Callable[[], None]], None],
    caller: _Caller,
    stderr: int,
    begin_log: Callable[[], int],
) -> NoReturn:
    """Detach from the caller, run `serve`, and exit."""
    try:
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(stderr, 2)
        # A lock or a pipe of the caller must not stay open as long as the daemon runs.
        for fd in {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, caller.pipe}:
            with contextlib.suppress(OSError):
                os.close(fd)
        caller.log = begin_log()
        serve(lambda: caller.send(READY))
    except Exception as exc:
        if isinstance(exc, EXPECTED):
            log.error("%s", describe(exc))
        else:
            log.exception("bug")
        caller.send(describe(exc).encode(errors="backslashreplace"))
        sys.exit(Code.FAILED)
    sys.exit(Code.OK)


def _read_all(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


def _explain(message: bytes, stderr: int, child: int, log_file: Path) -> str:
    """Return the daemon's error, with the end of its stderr; its exit status if it sent none."""
    _, status = os.waitpid(child, 0)
    error = message.decode(errors="replace")
    if not message:
        how = f"ended with {os.waitstatus_to_exitcode(status)}"
        if os.WIFSIGNALED(status):
            how = f"died of {signal.Signals(os.WTERMSIG(status)).name}"
        error = f"the daemon {how} before it had mounted; see its log: {log_file}"
    os.lseek(stderr, 0, os.SEEK_SET)
    complaint = " ".join(_read_all(stderr).decode(errors="replace").split())
    return f"{error} ({complaint[-300:]})" if complaint else error
