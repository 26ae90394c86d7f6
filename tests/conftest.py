"""Fixtures that give a test a store, a mount of its own, or a folder in a shared mount."""

import itertools
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.mounts import Mount, fuse_problem, modelfs, mounted

pytest_plugins = ["tests.support.fixtures"]

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
if "CI" in os.environ:
    settings.load_profile("ci")

# A shell has what it runs in the background ignore SIGINT, and the commands that tests send it to
# would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """Set the handler of SIGINT again: a command's entry point, called by a test, replaces it.

    Without its handler, the next test that interrupts itself would end pytest without a word.
    """
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape names of files in the logs of a report: xdist cannot send all of them."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def fuse() -> None:
    """Skip where FUSE cannot be used, and fail there when it is CI that cannot."""
    problem = fuse_problem()
    if problem and "CI" in os.environ:
        pytest.fail(problem)
    if problem:
        pytest.skip(problem)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A fresh store that nobody has opened."""
    store = tmp_path / "store"
    modelfs("mkfs", store)
    return store


@pytest.fixture
def mount(fuse: None, store: Path, tmp_path: Path) -> Iterator[Mount]:
    """A fresh store behind a daemon of its own: free to kill, remount and count."""
    with mounted(store, tmp_path / "mnt") as mount:
        yield mount


@pytest.fixture(scope="session")
def shared_mount(fuse: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """A mount that many tests use, each in a folder of its own (see `here`)."""
    top = tmp_path_factory.mktemp("shared")
    others = ("--allow-other",) if os.geteuid() == 0 else ()
    modelfs("mkfs", top / "store")
    with mounted(top / "store", top / "mnt", *others) as mount:
        yield mount


_numbers = itertools.count()


@pytest.fixture
def here(shared_mount: Mount) -> Path:
    """An empty folder in the shared mount."""
    if not shared_mount.alive:  # the test that ended the daemon has failed already
        shared_mount.restart()
    here = shared_mount.path / f"{next(_numbers)}"
    here.mkdir()
    return here
