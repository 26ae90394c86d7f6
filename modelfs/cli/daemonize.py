"""Going into the background: the caller goes on when the daemon is ready, or hears why not.

The daemon is a child of the caller in a session of its own. A pipe tells the caller what became of
it: `READY`, an error line, or nothing at all if it died. Until it is ready its stderr is a file in
memory, because libfuse and fusermount3 explain themselves there and nowhere else.
"""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from modelfs.cli import logs
from modelfs.cli.failure import EXPECTED, Code, Failure, describe

log = logging.getLogger(__name__)

READY: Final = b"ready"


def run_in_background(serve: Callable[[Callable[[], None]], None], log_file: Path) -> None:
    """Run `serve` in a process of its own, and return when it calls what it is given.

    Nothing may have been started before that uses threads.

    Raises:
        Failure: it failed before that.
    """
    words_in, words_out = os.pipe()
    complaints = os.memfd_create("stderr")
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        os.close(words_in)
        _be_daemon(serve, _Caller(words_out, complaints), log_file)
    os.close(words_out)
    try:
        words = _read_all(words_in)
    except BaseException:
        os.kill(child, signal.SIGTERM)
        raise
    if words != READY:
        raise Failure(_explain(words, complaints, child, log_file))
    os.close(complaints)


class _Caller:
    """Who waits for the daemon, seen from there."""

    def __init__(self, words: int, complaints: int) -> None:
        self.words = words
        self.complaints = complaints

    def tell(self, words: bytes) -> None:
        """Say the first and last thing; later ones are for nobody."""
        if self.words >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(self.words, words)
            os.close(self.words)
            self.words = -1
            _redirect(os.open(os.devnull, os.O_RDWR), 2)


def _be_daemon(
    serve: Callable[[Callable[[], None]], None], caller: _Caller, log_file: Path
) -> NoReturn:
    try:
        _detach(caller)
        logs.of_background_daemon(log_file)
        serve(lambda: caller.tell(READY))
    except Exception as exc:
        if isinstance(exc, EXPECTED):
            log.error("%s", describe(exc))
        else:
            log.exception("bug")
        caller.tell(describe(exc).encode(errors="backslashreplace"))
        sys.exit(Code.FAILED)
    sys.exit(Code.OK)


def _detach(caller: _Caller) -> None:
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(caller.complaints, 2)
    # A lock or a pipe of the caller's must not live as long as the daemon.
    kept = {0, 1, 2, caller.words}
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd not in kept:
            with contextlib.suppress(OSError):
                os.close(fd)


def _redirect(source: int, target: int) -> None:
    os.dup2(source, target)
    os.close(source)


def _read_all(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


def _explain(words: bytes, complaints: int, child: int, log_file: Path) -> str:
    _, status = os.waitpid(child, 0)
    os.lseek(complaints, 0, os.SEEK_SET)
    said = _read_all(complaints).decode(errors="replace").split("\n")
    message = words.decode(errors="replace")
    if not words:
        how = _ending(status)
        message = f"the daemon {how} before it had mounted; {log_file} may tell why"
    complaint = " ".join(" ".join(said).split())
    return f"{message} ({complaint[-300:]})" if complaint else message


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"died of {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with {os.waitstatus_to_exitcode(status)}"
