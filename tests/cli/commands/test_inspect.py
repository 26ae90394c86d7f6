"""`modelfs inspect`."""

import os
from pathlib import Path

import pytest

from modelfs.cli import open_store
from modelfs.store.disk.directory import Directory
from modelfs.store.index.tables import ROOT
from modelfs.store.store import Store
from tests.support.fake_daemon import Call, Fake
from tests.support.run_jobs import ingest_all
from tests.support.sample_store import CHUNK, TOP, fill
from tests.support.stores import ME, new_file, new_store, noise


def test_model(call: Call, family: Path) -> None:
    """A line for each tensor has its type, its form, and the files that share it."""
    out = call("inspect", "--store", family, "base.onnx").out
    [line] = [line for line in out.splitlines() if "word_embeddings" in line]
    assert all(
        part in line for part in ("F32", "256 x 384", "384 KiB", "plain", "/base.safetensors")
    )
    assert "/base.onnx: onnx, 962 KiB" in out


def test_plain_file(call: Call, family: Path) -> None:
    """A file without tensors has a summary only."""
    out = call("inspect", "--store", family, "/README.md").out
    assert "plain, 1.31 KiB" in out
    assert "of that for this file alone" in out
    assert "dtype" not in out


def test_derived(call: Call, tmp_path: Path) -> None:
    """The bases of a tensor are named, those of deleted tensors included."""
    path = new_store(tmp_path, chunk_size=CHUNK)
    fill(path)
    out = call("inspect", "--store", path, TOP.decode()).out
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("t")}
    assert "derived from" in out
    assert "/bottom.safetensors: t0" in lines["t1"]
    assert "a deleted tensor, kept as a base" in lines["t2"]
    report = call("inspect", "--store", path, TOP.decode(), "--json").json
    base = {"path": "/bottom.safetensors", "tensor": "t0", "bytes": 50_000}
    assert [tensor["derived_from"] for tensor in report["tensors"]] == [
        [],
        [base],
        [{"path": None, "tensor": None, "bytes": 40_000}],
    ]


def test_staged(call: Call, empty: Path) -> None:
    """The staged bytes of a file are named, with the command that stores them."""
    with Store(empty) as store:
        new_file(store, b"new", noise(10_000))
    out = call("inspect", "--store", empty, "new").out
    assert f"staged: 9.77 KiB, not in chunks yet; next: modelfs sync {empty}" in out
    assert "stored as" not in out


def test_base_of(call: Call, tmp_path: Path) -> None:
    """The files whose chunks derive from those of a file are named: they stay when it goes."""
    path = new_store(tmp_path, chunk_size=CHUNK)
    fill(path)
    report = call("inspect", "--store", path, "bottom.safetensors", "--json").json
    assert [user["path"] for user in report["base_of"]] == [TOP.decode()]
    assert not report["more_base_of"]
    out = call("inspect", "--store", path, "bottom.safetensors").out
    assert f"base of\n  {TOP.decode()} (" in out


def test_json(call: Call, family: Path) -> None:
    """The JSON is the report, its tensors in file order."""
    report = call("inspect", "--store", family, "base.safetensors", "--json").json
    assert report["format"] == "safetensors"
    assert report["path"] == "/base.safetensors"
    starts = [tensor["start"] for tensor in report["tensors"]]
    assert len(starts) == 4
    assert starts == sorted(starts)


def test_in_a_folder(call: Call, empty: Path) -> None:
    """A path in a store leads through its folders."""
    with Store(empty) as store:
        folder = store.namespace.create(ROOT, b"sub", 0o40755, ME)
        new_file(store, b"x", b"x", folder.inode)
        ingest_all(store)
    for path in ("sub/x", "/sub/x", "sub/../sub/./x"):
        assert call("inspect", "--store", empty, path, "--json").json["path"] == "/sub/x"


def test_through_links(
    call: Call, fake: Fake, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path in a store leads through its symbolic links, and the store is opened once."""
    with Store(empty) as store:
        folder = store.namespace.create(ROOT, b"sub", 0o40755, ME)
        new_file(store, b"x", b"x", folder.inode)
        store.namespace.symlink(ROOT, b"link", b"sub", ME)
        store.namespace.symlink(ROOT, b"away", b"/mnt/x", ME)
        ingest_all(store)
    opened: list[Path] = []

    class Counted(Store):
        def __init__(self, folder: Directory, *, read_only: bool, trust: bool) -> None:
            opened.append(folder.path)
            super().__init__(folder, read_only=read_only, trust=trust)

    monkeypatch.setattr(open_store, "Store", Counted)
    report = call("inspect", "--store", empty, "link/x", "--json").json
    assert (report["path"], opened) == ("/sub/x", [empty])
    assert "the link away leads to /mnt/x" in call("inspect", "--store", empty, "away").error
    daemon = fake(inspect=[{"result": {"path": "/sub/x"}}])
    assert call("inspect", "--store", empty, "link/x", "--json").json == {"path": "/sub/x"}
    assert daemon.requests == [{"command": "inspect", "inode": report["inode"]}]


def test_strange_names(call: Call, empty: Path) -> None:
    """Names of any bytes are shown escaped, and exactly in JSON."""
    name = b"caf\xe9 [red]\x1b"
    with Store(empty) as store:
        new_file(store, name, b"x")
        ingest_all(store)
    path = os.fsdecode(name)
    assert "/caf\\xe9 [red]\\x1b: plain" in call("inspect", "--store", empty, path).out
    report = call("inspect", "--store", empty, path, "--json").json
    assert os.fsencode(report["path"]) == b"/" + name


def test_asks_the_daemon(call: Call, fake: Fake, empty: Path) -> None:
    """For a file in a mounted store, the daemon reports, by the file's inode."""
    with Store(empty) as store:
        inode = new_file(store, b"x", b"x")
        ingest_all(store)
    daemon = fake(inspect=[{"result": {"path": "/x"}}])
    assert call("inspect", "--store", empty, "x", "--json").json == {"path": "/x"}
    assert daemon.requests == [{"command": "inspect", "inode": inode}]


def test_in_a_mount(
    call: Call, fake: Fake, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of a file in a mount is enough."""
    file = tmp_path / "model"
    file.write_text("x")
    monkeypatch.setattr(os, "getxattr", lambda path, name: os.fsencode(empty))
    daemon = fake(inspect=[{"result": {"path": "/model"}}])
    assert call("inspect", file, "--json").json == {"path": "/model"}
    assert daemon.requests == [{"command": "inspect", "inode": file.stat().st_ino}]
    assert "is a folder; name a file" in call("inspect", tmp_path).error
    assert "is not a regular file" in call("inspect", "/dev/null").error


def test_refusals(call: Call, family: Path, tmp_path: Path) -> None:
    """The error about any other path names the next step."""
    (tmp_path / "file").touch()
    assert "modelfs inspect --store STORE FILE" in call("inspect", tmp_path / "file").error
    assert "does not exist; name a file" in call("inspect", tmp_path / "nothing").error
    for path, problem in (
        ("nothing", "nothing is not in the store"),
        ("base.pt/x", "base.pt/x: base.pt is not a folder"),
    ):
        error = call("inspect", "--store", family, path).error
        assert error.startswith(f"{problem}, as of the last commit of {family}; ")
    folder = call("inspect", "--store", family, "/").error
    assert folder == f"/ is a folder of {family}; name a file in it"
    os.mkfifo(tmp_path / "pipe")
    assert "pipe is not a regular file" in call("inspect", tmp_path / "pipe").error
