"""fsync(2) of files with pages that programs have mapped."""

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelfs.fs.host import fsync_mapped


def test_fsync_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every file is synced; one that moved, or whose fsync fails, does not stop the others."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    lines = []
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
        inode = (tmp_path / name).stat().st_ino
        lines.append(b"%d %s" % (inode + (name == "c"), os.fsencode(tmp_path / name)))
    (tmp_path / "link").symlink_to(".")  # as O_NOFOLLOW refuses
    lines += [b"%d %s" % (1, os.fsencode(tmp_path / name)) for name in ("gone", "a/gone", "link")]
    asked = SimpleNamespace(buffer=io.BytesIO(b"".join(line + b"\0" for line in lines)))
    monkeypatch.setattr(sys, "stdin", asked)
    fsync_mapped.main()
    assert synced == [str(tmp_path / name) for name in ("a", "b", "c")]
    out, err = capsys.readouterr()
    assert out.split() == [str((tmp_path / "c").stat().st_ino + 1), "1", "1"]
    assert "link: " in err
