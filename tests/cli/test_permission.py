"""A path that this user may not use."""

import errno
import os
from pathlib import Path
from typing import Final

import pytest

from modelfs.cli.failure import describe
from modelfs.cli.permission import permission_denied
from modelfs.store.folder import FORMAT_FILE, FORMAT_TEXT

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
ME: Final = 1000


@pytest.mark.parametrize(
    ("user", "advice"), [(1000, "try sudo"), (0, "not even root may use it here")]
)
def test_another_users_file_is_named(
    monkeypatch: pytest.MonkeyPatch, user: int, advice: str
) -> None:
    """A permission that is denied names the path, the owner, and a next step for this user."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    line = describe(PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/"))
    assert line == f"permission denied: / (owned by user 0; {advice})"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_a_file_in_ones_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be had by chown(1): root has restored it, for example."""
    (tmp_path / "pack").touch()
    os.chown(tmp_path, 1000, 1000)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    line = describe(PermissionError(errno.EACCES, os.strerror(errno.EACCES), tmp_path / "pack"))
    assert line.endswith(f"(owned by user 0; to make it yours: sudo chown 1000 {tmp_path}/pack)")
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    assert "try sudo" in describe(PermissionError(errno.EACCES, "", tmp_path / "pack"))


@only_root
def test_a_file_in_a_folder_with_a_file_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next step is one for this file only: any user can make a FORMAT in /tmp."""
    file, form = tmp_path / "mine", tmp_path / FORMAT_FILE
    for path in (file, form):
        path.write_text(FORMAT_TEXT)
    os.chown(form, 7, 7)
    monkeypatch.setattr(os, "geteuid", lambda: ME)
    assert permission_denied(file) == f"permission denied: {file} (owned by user 0; try sudo)"
    os.chown(tmp_path, ME, ME)
    assert permission_denied(file).endswith(f"to make it yours: sudo chown {ME} {file})")


@only_root
@pytest.mark.parametrize(
    ("owners", "advice"),
    [
        ((ME, ME, 0), "owned by user 0; to make it yours: sudo chown -R 1000 {store}"),
        ((ME, 0, 0), "owned by user 0; to make it yours: sudo chown -R 1000 {store}"),
        ((0, 0, 0), "owned by user 0; try sudo"),
        ((0, 7, 7), "owned by user 7; try as that user"),
        ((0, 7, 0), "owned by user 0; try as user 7, who owns the store"),
        ((0, ME, ME), "owned by user 1000; to let its owner use it: chmod u+rwX {file}"),
    ],
)
def test_a_file_in_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owners: tuple[int, int, int], advice: str
) -> None:
    """The next step is one for all of the store, and one that helps this user."""
    store = tmp_path / "my store"
    file = store / "packs" / "1.pack"
    file.parent.mkdir(parents=True)
    for path in (form := store / FORMAT_FILE, file):
        path.write_text(FORMAT_TEXT)
    for path, owner in zip((tmp_path, store, file), owners, strict=True):
        os.chown(path, owner, owner)
    os.chown(form, owners[1], owners[1])
    monkeypatch.setattr(os, "geteuid", lambda: ME)
    expected = advice.format(store=f"'{store}'", file=f"'{file}'")
    assert permission_denied(file) == f"permission denied: {file} ({expected})"
