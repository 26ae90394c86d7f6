"""`modelfs fsck`."""

import errno
import itertools
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from modelfs.cli.commands import fsck
from modelfs.jobs.check.findings import Finding
from modelfs.jobs.check.fsck import FsckReport
from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.create import create_store
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.tables import ChunkId
from modelfs.store.store import Store
from tests.support.fake_daemon import Call, Fake
from tests.support.index_pages import damage_flags, leaves_of
from tests.support.stores import overwrite

STRANGE = Finding("some_invariant", "it does not hold", (b"/caf\xe9",), ("w\n1",))


def test_sound(call: Call, family: Path) -> None:
    """A store without damage ends with 0, and a line counts files and chunks."""
    done = call("fsck", family)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("no damage: 12 files, ")
    out = call("fsck", family, "--data").out
    assert out.startswith("no damage: 12 files, ")
    assert out.endswith(" 4.81 MiB read\n")


def test_damaged(call: Call, family: Path) -> None:
    """A damaged chunk ends with 4, and a line names the affected files and tensors."""
    report = call("inspect", "--store", family, "base-bf16.safetensors", "--json").json
    assert report["own_bytes"] > 0
    for pack in (family / "packs").iterdir():
        overwrite(pack, 40_000, b"damage")
    done = call("fsck", "--data", family)
    assert done.code == 4
    *findings, summary = done.out.splitlines()
    assert all("files: /" in line and "tensors: " in line for line in findings)
    assert summary.startswith(f"{len(findings)} finding")


def test_json(call: Call, family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The JSON has every finding, and the same exit code."""
    assert call("fsck", family, "--json").json["findings"] == []
    _let_find(monkeypatch, STRANGE)
    done = call("fsck", family, "--json")
    assert done.code == 4
    assert '"invariant": "some_invariant"' in done.out
    assert '"/caf\\udce9"' in done.out


def test_one_line_each(call: Call, family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finding is one line, for names of any bytes."""
    _let_find(monkeypatch, STRANGE)
    first, last = call("fsck", family).out.splitlines()
    assert first == ("damage: some_invariant: it does not hold; files: /caf\\xe9; tensors: w\\n1")
    assert last.startswith("1 finding in ")


def test_mounted(call: Call, fake: Fake, empty: Path) -> None:
    """A mounted store is checked while its daemon keeps the files of the last commit."""
    daemon = fake(hold=[{"result": {}}])
    assert call("fsck", empty).code == 0
    assert daemon.requests == [{"command": "hold"}]
    assert daemon.released.wait(10)


def test_interrupted(call: Call, family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C prints the findings so far, and the command for all of them."""
    (pack,) = (family / "packs").iterdir()
    overwrite(pack, 4096 + 4096, b"damage")
    damaged = call("fsck", "--data", family).out.splitlines()[0]
    check, checked = ChunkReader.check, itertools.count(1)

    def interrupt(self: ChunkReader, chunk: ChunkId, record: Chunk) -> None:
        if next(checked) == 30:
            raise KeyboardInterrupt
        check(self, chunk, record)

    monkeypatch.setattr(ChunkReader, "check", interrupt)
    done = call("fsck", "--data", family)
    assert done.code == 130
    assert done.out.splitlines() == [damaged]
    assert done.err == (
        f"modelfs: interrupted; 1 finding so far; for all of them: modelfs fsck --data {family}\n"
    )


def test_could_not_check(call: Call, empty: Path, tmp_path: Path) -> None:
    """A check that is not possible ends with 8, never with 0 or 4."""
    with Store(empty):
        done = call("fsck", empty)
    assert (done.code, "is locked by process" in done.error) == (8, True)
    assert call("fsck", tmp_path / "nothing").code == 8
    (empty / "index" / "data.mdb").write_bytes(b"junk" * 5000)
    done = call("fsck", empty)
    assert (done.code, "data.mdb" in done.error or "index" in done.error) == (8, True)


@pytest.mark.parametrize("options", [(), ("--repair",)])
@pytest.mark.parametrize("size", [0, 8192])
def test_a_lost_index(call: Call, empty: Path, options: tuple[str, ...], size: int) -> None:
    """For a lost index the next step is a backup, and not repair."""
    (empty / "index" / "data.mdb").write_bytes(bytes(size))
    done = call("fsck", *options, empty)
    assert (done.code, "--repair" in done.err) == (8, False)
    assert done.err.endswith("; restore the store from a backup\n")


@pytest.mark.parametrize("command", [("fsck",), ("fsck", "--repair"), ("stats",)])
@pytest.mark.parametrize("name", ["packs", "staging"])
def test_an_empty_folder_that_a_backup_left_out(
    call: Call, tmp_path: Path, name: str, command: tuple[str, ...]
) -> None:
    """The next step is a command, after which the store is sound, for any umask of the user's."""
    store = tmp_path / "my store"
    create_store(store)
    (store / name).rmdir()
    error = call(*command, store).error
    made = re.search(r"; then make it: (mkdir .*)\); otherwise restore it from a backup$", error)
    assert made is not None, error
    subprocess.run(["sh", "-c", f"umask 002; {made[1]}"], check=True)
    assert call(*command, store).code == 0


def test_no_permission(call: Call, family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack that this user may not read is no damage: the check could not be made."""
    real = os.open

    def refused(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(".pack"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refused)
    done = call("fsck", family)
    assert (done.code, "permission denied" in done.error) == (8, True)
    assert ".pack" in done.error


def test_wrong_usage(call: Call) -> None:
    """Wrong usage ends with 16."""
    assert call("fsck").code == 16
    assert call("fsck", "a", "b").code == 16
    assert call("fsck", "--mend", "a").code == 16


def test_writers_are_excluded_meanwhile(
    call: Call, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is not mounted cannot be opened for writing while it is checked."""

    def check(store: Store, **_: object) -> FsckReport:
        assert "is locked by" in call("sync", empty).error
        return FsckReport([], 0, 0, 0, 0.0)

    monkeypatch.setattr(fsck, "check_store", check)
    assert call("fsck", empty).code == 0
    assert call("sync", empty).code == 0


def _let_find(patch: pytest.MonkeyPatch, *findings: Finding) -> None:
    report = FsckReport([*findings], 1, 2, 3, 0.0)
    patch.setattr(fsck, "check_store", lambda store, **_: report)


# -- repair


def _damage(family: Path) -> None:
    for pack in (family / "packs").iterdir():
        overwrite(pack, 40_000, b"damage")


def test_repair(call: Call, family: Path) -> None:
    """A repair lists findings and repairs, and ends with 1; then the store is sound."""
    _damage(family)
    done = call("fsck", "--repair", "--data", family)
    assert (done.code, done.err) == (1, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("damage: content: ")
    assert any(line.startswith("quarantined: chunks in pack 1 that are lost") for line in lines)
    assert any(line.startswith("no new damage: ") for line in lines)
    again = call("fsck", "--data", family)
    assert again.code == 0
    assert "lost: " in again.out
    assert f"of damaged data in {family / 'quarantine'}" in again.out
    assert call("stats", family, "--json").json["lost_bytes"] > 0
    assert "lost" in call("stats", family).out


def test_repair_of_a_sound_store(call: Call, family: Path) -> None:
    """A repair of a sound store does nothing, and ends with 0."""
    done = call("fsck", "--repair", family)
    assert (done.code, done.out.startswith("no damage: ")) == (0, True)


def test_repair_as_json(call: Call, family: Path) -> None:
    """The JSON has the findings, the repairs, and the lost files."""
    _damage(family)
    done = call("fsck", "--repair", "--data", "--json", family)
    report = json.loads(done.out)
    assert (done.code, report["findings"]) == (1, [])
    assert {each["invariant"] for each in report["found"]} == {"content"}
    assert {each["outcome"] for each in report["actions"]} == {"mended", "quarantined"}
    assert report["lost_files"]


def test_the_summary_counts_findings(call: Call, family: Path) -> None:
    """Of each finding it is known whether it is repaired, however many rows that took."""
    _damage(family)
    done = call("fsck", "--repair", "--data", family)
    report = done.out.splitlines()
    repairs = [line for line in report if line.startswith(("repaired: ", "quarantined: "))]
    lossy = sum(line.startswith("quarantined: ") for line in repairs)
    assert len(repairs) > 1
    assert f"1 finding: 1 repaired, 0 left; {len(repairs)} repairs, {lossy} with a loss" in report


def test_an_unfinished_repair(call: Call, family: Path) -> None:
    """Until it is finished, all commands name the next step, and a check has it as a finding."""
    (family / "repair.unfinished").write_text("commit 9 is lost\n")
    found = call("fsck", family)
    assert (found.code, found.out.startswith("damage: repair: a repair of ")) == (4, True)
    for command in ("stats", "gc", "optimize", "scrub"):
        done = call(command, family)
        assert (done.code, "has not finished" in done.error) == (1, True), command
        assert "`modelfs fsck --repair`" in done.error
    done = call("fsck", "--repair", family)
    assert (done.code, "quarantined: commit 9 is lost" in done.out) == (1, True)
    assert call("fsck", family).code == 0


def test_damage_that_is_left(call: Call, family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings that are left after a repair end with 4."""
    _damage(family)
    monkeypatch.setattr("modelfs.jobs.repair.run.run_passes", lambda _: None)
    monkeypatch.setattr("modelfs.jobs.repair.run.ROUNDS_MAX", 1)
    done = call("fsck", "--repair", "--data", family)
    assert (done.code, "1 finding: 0 repaired, 1 left; 0 repairs, 0 with a loss" in done.out) == (
        4,
        True,
    )


def test_a_mounted_store_is_not_repaired(call: Call, fake: Fake, empty: Path) -> None:
    """The daemon gets no request, and the next step is to unmount."""
    daemon = fake()
    done = call("fsck", "--repair", empty)
    assert (done.code, "umount" in done.error) == (8, True)
    assert daemon.requests == []


def test_a_torn_meta_page(call: Call, family: Path) -> None:
    """A damaged meta page of the index is found, and restored from the commit before."""
    overwrite(family / "index" / "data.mdb", 4096, bytes(100))
    found = call("fsck", family)
    assert (found.code, "meta page 1" in found.out) == (4, True)
    assert call("fsck", "--repair", family).code == 1
    assert call("fsck", "--data", family).code == 0
    assert (family / "quarantine" / "data.mdb").is_file()


def test_a_damaged_page(call: Call, family: Path) -> None:
    """A damaged page of the index is found and repaired, and ends no command without a word."""
    page = leaves_of(family, "chunks")[0]
    damage_flags(family, page)
    found = call("fsck", family)
    assert found.code == 4
    line = f"damage: page: page {page} of the index (chunks): its flags are 0x6 in place of 0x2"
    assert found.out.startswith(line)
    assert '"invariant": "page"' in call("fsck", family, "--json").out
    for command in ("stats", "gc", "optimize", "scrub"):
        done = call(command, family)
        assert (done.code, "its flags are 0x6" in done.error) == (1, True), command
        assert "repair it with `modelfs fsck --repair`" in done.error
    assert call("fsck", "--repair", family).code == 1
    assert call("fsck", "--data", family).code == 0
    assert (family / "quarantine" / "data.mdb").is_file()
