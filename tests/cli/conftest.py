"""Fixtures for the command line."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.cli.main import run
from modelfs.store.create import create_store
from modelfs.store.store import Store
from tests.support.fake_daemon import Call, Done, Fake, FakeDaemon, Reply
from tests.support.paths import MODELS
from tests.support.run_jobs import ingest_all
from tests.support.stores import new_file


@pytest.fixture(autouse=True)
def no_handlers_left() -> Iterator[None]:
    """Remove the handler of logs that a command has set: its stream ends with the test."""
    yield
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.get_name() == "modelfs"]:
        root.removeHandler(handler)
        handler.close()


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Call a command in this process."""

    def call(*arguments: str | Path) -> Done:
        code = run([str(each) for each in arguments])
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return call


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A store without files."""
    folder = tmp_path / "empty.store"
    create_store(folder)
    return folder


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A store that holds the sample models."""
    folder = tmp_path / "family.store"
    create_store(folder)
    with Store(folder) as store:
        for source in sorted(MODELS.glob("*.*")):
            new_file(store, source.name.encode(), source.read_bytes())
        ingest_all(store)
    return folder


@pytest.fixture
def fake(empty: Path) -> Iterator[Fake]:
    """Make a fake daemon of the empty store: `fake(stats=[reply, ...])`."""
    made: list[FakeDaemon] = []

    def start(**replies: list[Reply | bytes]) -> FakeDaemon:
        made.append(FakeDaemon(empty, replies))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Restore the handlers and the level after the test."""
    root, package = logging.getLogger(), logging.getLogger("modelfs")
    handlers, level = root.handlers[:], package.level
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()
    package.setLevel(level)
