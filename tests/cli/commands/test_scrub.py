"""`modelfs scrub`."""

import json
from pathlib import Path

import pytest

from modelfs.jobs import drive
from modelfs.jobs.scrub.scrubber import CheckedRange, PackRange, Scrubber
from modelfs.store.store import Store
from tests.support.fake_daemon import Call, Fake, Reply
from tests.support.paths import MODELS
from tests.support.run_jobs import ingest_all
from tests.support.stores import new_file, noise, overwrite, stored_file

REPORT: Reply = {
    "started_ns": 10**18,
    "ended_ns": 0,
    "chunks": 2,
    "bytes": 2048,
    "done": 1,
    "total": 4,
    "rate": 1 << 20,
    "running": True,
    "findings": [],
}


@pytest.fixture
def segments(empty: Path) -> Path:
    """A store whose files lie in segments of their own, which are checked one by one."""
    with Store(empty) as store:
        for number in range(6):
            stored_file(store, b"%d" % number, noise(10_000, number))
    return empty


def test_sound(call: Call, family: Path) -> None:
    """A scrub without damage ends with 0 and counts the read bytes; so does its status."""
    assert call("scrub", family, "--status").out.startswith("never scrubbed; start with: ")
    done = call("scrub", family)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("finished 20")
    assert done.out.endswith(" 4.81 MiB read, none damaged\n")
    assert call("scrub", family, "--status").out == done.out


def test_damaged(call: Call, family: Path) -> None:
    """Damage ends with 4 and a line that names files and tensors, until a good copy is written."""
    call("scrub", family)
    (pack,) = (family / "packs").iterdir()
    overwrite(pack, 40_000, b"damage")
    done = call("scrub", family)
    assert done.code == 4
    first, following, last = done.out.splitlines()
    assert first.startswith("damage: content: chunk ")
    assert "files: /" in first
    assert "`modelfs fsck --repair --data`" in following
    assert last.endswith("1 damaged")
    assert call("scrub", family, "--status").code == 4
    found = json.loads(call("scrub", family, "--status", "--json").out)["findings"]
    with Store(family) as store:
        for source in sorted(MODELS.glob("*.*")):
            new_file(store, b"good " + source.name.encode(), source.read_bytes())
        ingest_all(store)
    assert len(found) == 1
    assert call("scrub", family, "--status").code == 0


def test_interrupted(call: Call, segments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C the next call continues there; with `--anew` it starts over."""
    checks = Checks(monkeypatch)
    checks.interrupted = 3
    done = call("scrub", segments)
    stopped = call("scrub", segments, "--status").out
    assert (done.code, done.out) == (130, stopped)
    assert stopped.startswith("stopped at ")
    assert stopped.endswith(f"continue with: modelfs scrub {segments}\n")
    assert call("scrub", segments).code == 0
    once = checks.count - 1  # the one that was interrupted was done twice
    assert call("scrub", segments, "--anew").code == 0
    assert checks.count == 2 * once + 1
    assert once > 3


class Checks:
    """Counts the ranges that are checked, and interrupts one of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.interrupted = 0
        real = Scrubber.check

        def check(scrubber: Scrubber, part: PackRange) -> CheckedRange:
            self.count += 1
            if self.count == self.interrupted:
                raise KeyboardInterrupt
            return real(scrubber, part)

        patch.setattr(Scrubber, "check", check)


def test_asks_the_daemon(call: Call, fake: Fake, empty: Path) -> None:
    """For a mounted store, the daemon scrubs, with the options of the command."""
    answer = {"result": REPORT}
    requests: dict[str, list[Reply | bytes]] = {
        "scrub": [{"progress": {"done": 1, "total": 4}}, answer],
        "scrub-status": [answer],
        "scrub-stop": [{"result": {**REPORT, "running": False, "rate": 0}}],
    }
    daemon = fake(**requests)
    line = "1.00 MiB/s: 25.0 %, 2 chunks, 2.00 KiB read, none damaged\n"
    assert call("scrub", empty, "--status").out.endswith(line)
    assert call("scrub", empty, "--background", "--rate", "1MiB").out.endswith(line)
    assert call("scrub", empty).code == 0
    assert call("scrub", empty, "--stop").out.startswith("stopped at 25.0 %: 2 chunks")
    assert daemon.requests == [
        {"command": "scrub-status"},
        {"command": "scrub", "rate": 1 << 20, "anew": False},
        {"command": "scrub", "anew": False},
        {"command": "scrub-stop"},
    ]


def test_rates_without_an_end(call: Call, fake: Fake, empty: Path) -> None:
    """A rate below 1 KiB per second is refused."""
    daemon = fake()
    for rate in ("0", "1023"):
        done = call("scrub", empty, "--background", "--rate", rate)
        assert (done.code, "must be at least 1KiB" in done.error) == (2, True)
    assert daemon.requests == []


def test_not_mounted(call: Call, empty: Path) -> None:
    """A store that is not mounted has no scrub in the background."""
    assert "is not mounted" in call("scrub", empty, "--background").error
    assert call("scrub", empty, "--stop").out.startswith("never scrubbed")


def test_a_long_one_commits(call: Call, segments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The position is committed on the way, so that a crash does not cost the whole scrub."""
    monkeypatch.setattr(drive, "COMMIT_SECONDS", -1)
    commits: list[Store] = []
    real = Store.commit

    def commit(store: Store) -> None:
        commits.append(store)
        real(store)

    monkeypatch.setattr(Store, "commit", commit)
    assert call("scrub", segments).code == 0
    assert len(commits) > 3
