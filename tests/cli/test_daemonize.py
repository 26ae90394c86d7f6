"""Daemons in the background. Here they are Python programs that serve nothing."""

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import DEADLINE, wait_until

CALLER = """
import os, sys, time
from pathlib import Path
from modelfs.cli import daemon_log, logs
from modelfs.cli.daemonize import run_in_background
from modelfs.cli.failure import Failure
from modelfs.errors import StoreBusy

folder = Path(sys.argv[1])
(folder / "FORMAT").touch()  # a store, for its log
logs.of_command()
{serve}
try:
    log_file = folder / "daemon.log"
    run_in_background(serve, lambda: daemon_log.begin(folder), log_file)
except Failure as exc:
    sys.exit("failure: " + str(exc))
print("in the background")
"""


def run(folder: Path, serve: str, *inherited: int) -> "subprocess.CompletedProcess[str]":
    """Start a daemon with this body of `serve(ready)`, and wait for its caller."""
    body = "def serve(ready):\n" + textwrap.indent(textwrap.dedent(serve), "    ")
    return subprocess.run(
        [sys.executable, "-c", CALLER.format(serve=body), folder],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        stdin=subprocess.DEVNULL,
        pass_fds=inherited,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder; its file `end`, created after the test, ends the daemons."""
    yield tmp_path
    (tmp_path / "end").touch()


def test_caller_goes_on_when_ready(folder: Path) -> None:
    """The caller ends when the daemon is ready; the daemon goes on, detached from it.

    The call returns because the daemon has closed the pipes of the caller's output.
    """
    done = run(
        folder,
        """
        os.write(2, b"libfuse is chatty")
        ready()
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)]
        state = [*links, os.getcwd(), str(os.getsid(0) == os.getpid()), str(os.getpid())]
        (folder / "new").write_text("\\n".join(state))
        (folder / "new").rename(folder / "state")
        while not (folder / "end").exists():
            time.sleep(0.01)
        (folder / "ended").touch()
        """,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "in the background\n", "")
    wait_until((folder / "state").exists)
    *state, pid = (folder / "state").read_text().splitlines()
    assert state == [os.devnull, os.devnull, str(folder / "daemon.log"), "/", "True"]
    assert os.path.exists(f"/proc/{pid}")
    (folder / "end").touch()
    wait_until((folder / "ended").exists)


@pytest.mark.parametrize(
    ("serve", "says"),
    [
        ("raise StoreBusy('it is taken')", "it is taken; end its other use first"),
        ("raise Failure('no FUSE')", "no FUSE"),
        ("raise OSError(28, 'No space', 'x')", "x: No space; free space on that disk"),
        ("os.write(2, b'fusermount3: no\\n'); raise OSError(1, 'no')", "no (fusermount3: no)"),
        ("os.abort()", "the daemon died of SIGABRT before it had mounted"),
        ("os._exit(3)", "the daemon ended with 3 before it had mounted"),
        ("pass", "the daemon ended with 0 before it had mounted"),
        ("1 / 0", "bug: ZeroDivisionError"),
    ],
)
def test_failures_reach_the_caller(folder: Path, serve: str, says: str) -> None:
    """A failure before the daemon is ready is the caller's error."""
    done = run(folder, serve)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("failure: ")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupted_caller(folder: Path) -> None:
    """Ctrl-C ends the daemon that is not ready, and the caller waits for its end."""
    serve = """
        import signal
        signal.signal(signal.SIGTERM, lambda *_: (folder / "end").touch())
        (folder / "started").touch()
        while not (folder / "end").exists():
            time.sleep(0.01)
        time.sleep(0.1)
        (folder / "ended").touch()
    """
    body = "def serve(ready):\n" + textwrap.indent(textwrap.dedent(serve), "    ")
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-c", CALLER.format(serve=body), str(folder)]
    caller = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_until((folder / "started").exists)
        caller.send_signal(signal.SIGINT)
        _, err = caller.communicate(timeout=DEADLINE)
    finally:
        signal.signal(signal.SIGINT, handler)
        caller.kill()
        caller.wait(DEADLINE)
    assert err == "failure: interrupted; nothing is mounted\n"
    assert (folder / "ended").exists()


def test_failures_are_logged(folder: Path) -> None:
    """A failure is in the log, too, with the traceback if it is a bug."""
    run(folder, "raise StoreBusy('it is taken')")
    run(folder, "ready()\n1 / 0")
    log = folder / "daemon.log"
    wait_until(lambda: "ZeroDivisionError" in log.read_text())
    assert "it is taken" in log.read_text()
    assert "Traceback" in log.read_text()


def test_the_end_by_a_signal_is_logged(folder: Path) -> None:
    """After the daemon is ready, its stderr is the log: there LMDB and Python explain an abort."""
    run(folder, "ready()\nos.write(2, b'mdb.c: Assertion failed')\nos.abort()")
    log = folder / "daemon.log"
    wait_until(lambda: "Assertion failed" in log.read_text())


def test_locks_of_the_caller_are_closed(folder: Path) -> None:
    """A descriptor that the caller left open, such as a lock's, is closed in the daemon."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    wait = """
        ready()
        while not (folder / "end").exists():
            time.sleep(0.01)
    """
    assert run(folder, wait, lock).returncode == 0
    os.close(lock)
    again = os.open(folder / "lock", os.O_RDWR)
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(again)
