"""Files that root makes for another user."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelfs.owners import as_user
from tests.support.users import ALICE, BOB, user


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_as_user() -> None:
    """Files of the block are that user's, those of other threads and after an error are not."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o777)

        def make_twice() -> None:
            with as_user(ALICE.uid):
                (top / "hers").touch()
                other.submit((top / "other").touch).result()
                (top / "hers").touch(exist_ok=False)

        with ThreadPoolExecutor(1) as other:
            other.submit(os.getpid).result()  # it runs: a new thread is as the one that starts it
            with pytest.raises(FileExistsError):
                make_twice()
        (top / "after").touch()
        owners = {path.name: path.stat().st_uid for path in top.iterdir()}
        assert owners == {"hers": ALICE.uid, "other": 0, "after": 0}


def make_as_alice() -> None:
    with as_user(ALICE.uid):
        Path("made").touch()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_as_user_without_the_right() -> None:
    """A process without CAP_SETUID gets an error, and makes nothing."""
    with user(BOB, Path("/"), __name__) as bob:
        assert bob(make_as_alice) == "EPERM"
