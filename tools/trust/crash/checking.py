"""Check a store after a crash: is it sound, and does it keep the promises made before?"""

import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from modelfs.errors import ModelfsError
from modelfs.fs.daemon import run
from modelfs.fs.mount_options import MountOptions
from modelfs.jobs.check.fsck import fsck
from modelfs.store.store import Store
from tools.trust.crash.machine import unmount
from tools.trust.crash.promises import Ledger

log = logging.getLogger(__name__)

SECONDS: Final = 60.0  # the longest start of a daemon
CACHE: Final = 64 << 20


def problems_after(store: Path, mountpoint: Path, ledger: Ledger) -> list[str]:
    """Check a store as a crash left it, mount it, compare all promises, check it again."""
    problems = [f"before the mount: {problem}" for problem in findings(store)]
    try:
        with served(store, mountpoint):
            problems += ledger.problems(mountpoint)
    except OSError as exc:
        problems.append(f"mount: {exc}")
    return problems + [f"after the mount: {problem}" for problem in findings(store)]


def findings(store: Path) -> list[str]:
    """Return the findings of `modelfs fsck --data`. Changes nothing."""
    try:
        with Store(store, read_only=True) as opened:
            return [
                f"{finding.invariant}: {finding.message}"
                for finding in fsck(opened, data=True).findings
            ]
    except (ModelfsError, OSError) as exc:
        return [f"cannot be checked: {exc}"]


@contextmanager
def served(store: Path, mountpoint: Path) -> Iterator[None]:
    """Mount a store by a real daemon, forked from here, while the block lasts.

    Raises:
        OSError: the daemon does not start, or ends with another status than 0.
    """
    mountpoint.mkdir(exist_ok=True)
    readable, writable = os.pipe()
    if not (daemon := os.fork()):
        os.close(readable)
        _serve(store, mountpoint, writable)
    os.close(writable)
    try:
        ready = select.select([readable], [], [], SECONDS)[0] and os.read(readable, 1)
        if ready:
            yield
            unmount(mountpoint)
    finally:
        os.close(readable)
    code = os.waitstatus_to_exitcode(os.waitpid(daemon, 0)[1])
    if not ready or code:
        raise OSError(f"the daemon ended with {code}, see its log")


def _serve(store: Path, mountpoint: Path, ready: int) -> None:
    code = 1
    try:
        logging.basicConfig(stream=sys.stderr, level=logging.ERROR, force=True)
        options = MountOptions(
            store=store,
            mountpoint=mountpoint,
            cache_size=CACHE,
            read_only=False,
            allow_other=False,
            limit=None,
            options=(),
        )
        run(options, lambda: _tell(ready))
        code = 0
    except BaseException:
        log.exception("the daemon failed")
    finally:
        os._exit(code)


def _tell(ready: int) -> None:
    os.write(ready, b"r")
