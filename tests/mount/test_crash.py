"""A daemon killed at any moment keeps its promises: mounted again soon, sound, nothing lost.

The moments are drawn at random from seeds, so a failure comes back when it is run again
on the same machine, and a fixture's last check reads every byte of the store.
"""

import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.mounts import DEADLINE, MODELFS, Mount, drop_kernel_caches, modelfs, wait_until

pytestmark = pytest.mark.mount

ROUNDS = 3
SIZES = (1, 4096, 100_000, 3_000_000)

# The content of a file follows from its name, for the clients below and for the checks.
CONTENT = """
    import os, random, sys

    def content(name):
        draw = random.Random(name)
        return draw.randbytes(draw.choice((1, 4096, 100_000, 3_000_000)))

    def write(path, data, durable):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for start in range(0, len(data), 50_000):
            os.write(fd, data[start : start + 50_000])
        if durable:
            os.fsync(fd)
        os.close(fd)

    os.chdir(sys.argv[1])
    folder = os.open(".", os.O_RDONLY)
    first = int(sys.argv[2])
"""


def content(name: str) -> bytes:
    draw = random.Random(name)
    return draw.randbytes(draw.choice(SIZES))


class Client:
    """A process that works in a mount until the mount fails, and reports each durable step."""

    def __init__(self, source: str, *arguments: str | Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CONTENT) + textwrap.dedent(source), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._steps: list[str] = []

    def wait_for(self, steps: int) -> None:
        """Return when so many steps are durable."""
        assert self._process.stdout is not None
        while len(self._steps) < steps:
            line = self._process.stdout.readline()
            assert line, self._process.communicate()[1]
            self._steps.append(line.strip())

    def durable_steps(self) -> list[str]:
        """Return the steps that were durable before the mount failed the client."""
        rest, problem = self._process.communicate(timeout=DEADLINE)
        assert "OSError" in problem or "ConnectionAbortedError" in problem, problem
        return self._steps + rest.split()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def client(source: str, *arguments: str | Path) -> Iterator[Client]:
    client = Client(source, *arguments)
    try:
        yield client
    finally:
        client.end()


def recover(mount: Mount) -> None:
    """Mount again after a crash."""
    mount.restart()
    drop_kernel_caches()


def crash_under(mount: Mount, source: str, number: int) -> list[str]:
    """Let a client work, crash at a moment of this round, recover; return the durable steps."""
    draw = random.Random(number)
    with client(source, mount.path, str(number * 1_000_000)) as working:
        working.wait_for(draw.randint(1, 10))
        mount.kill(after=draw.uniform(0, 0.5))
        steps = working.durable_steps()
    recover(mount)
    return steps


def start_killed(after: float, *command: str | Path) -> None:
    """Start a command of modelfs and kill it at some moment, if it has not ended by then."""
    process = subprocess.Popen(
        [*MODELFS, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with suppress(subprocess.TimeoutExpired):
        process.wait(after)
    process.kill()
    process.wait(DEADLINE)


def test_killed_while_writing(mount: Mount) -> None:
    """A file is there, whole, once its fsync and its folder's have returned."""
    source = """
        for number in range(first, first + 1_000_000):
            write(f"{number}", content(f"{number}"), durable=True)
            os.fsync(folder)
            print(number, flush=True)
    """
    durable = [name for number in range(ROUNDS) for name in crash_under(mount, source, number)]
    assert {name for name in durable if (mount.path / name).read_bytes() != content(name)} == set()


def test_killed_while_writing_without_fsync(mount: Mount) -> None:
    """A file that `modelfs sync` has seen is there, whole, right after a crash."""
    for number in range(ROUNDS):
        names = [f"{number}-{n}" for n in range(20)]
        for name in names:
            (mount.path / name).write_bytes(content(name))
        mount.sync()
        mount.kill()
        recover(mount)
        assert {n for n in names if (mount.path / n).read_bytes() != content(n)} == set()


def test_killed_while_replacing(mount: Mount) -> None:
    """A name that is repeatedly renamed over has one whole version, no older than promised.

    Every second version is renamed without any fsync, as careless programs do.
    """
    source = """
        for number in range(first, first + 1_000_000):
            durable = number % 2 == 0
            write("new", b"%09d " % number + content(f"{number}"), durable)
            os.rename("new", "current")
            if durable:
                os.fsync(folder)
                print(number, flush=True)
    """
    for number in range(ROUNDS):
        promised = crash_under(mount, source, number)
        version, _, data = (mount.path / "current").read_bytes().partition(b" ")
        assert data == content(f"{int(version)}")
        assert int(version) >= int(promised[-1])


def test_killed_while_patching(mount: Mount) -> None:
    """A patch of a stored file is there once its fsync has returned; all else is as before."""
    block, blocks = 5000, 2000
    stored = bytes(block * blocks)
    (mount.path / "x").write_bytes(stored)
    mount.sync()
    source = f"""
        fd = os.open("x", os.O_RDWR)
        draw = random.Random(first)
        for number in range(1_000_000):
            place = draw.randrange({blocks})
            os.pwrite(fd, b"%05d" % place * 1000, place * {block})
            if number % 3 == 0:
                os.fsync(fd)
                print(number, flush=True)
    """
    for number in range(ROUNDS):
        promised = int(crash_under(mount, source, number)[-1])
        data = (mount.path / "x").read_bytes()
        found = [data[place * block :][:block] for place in range(blocks)]
        draw = random.Random(number * 1_000_000)
        patched = {draw.randrange(blocks) for _ in range(promised + 1)}
        assert len(data) == len(stored)
        assert all(found[place] == b"%05d" % place * 1000 for place in patched)
        # A patch whose fsync has not returned may be there in part, and nothing else may be.
        assert all(
            byte in {0, new}
            for place in range(0, blocks, 7)
            for byte, new in zip(found[place], b"%05d" % place * 1000, strict=True)
        )
        mount.sync()


def test_killed_while_removing(mount: Mount) -> None:
    """A name stays away once its folder's fsync has returned; the names not removed stay."""
    names = [f"{n}" for n in range(600)]
    for name in names:
        (mount.path / name).write_bytes(name.encode() * 1000)
    (mount.path / "kept").write_bytes(content("kept"))
    mount.sync()
    source = """
        left = sorted(int(name) for name in os.listdir(".") if name != "kept")
        for number in left:
            os.unlink(f"{number}")
            os.fsync(folder)
            print(number, flush=True)
        while True:
            os.listdir(".")
    """
    removed = crash_under(mount, source, 1)
    assert (mount.path / "kept").read_bytes() == content("kept")
    left = set(os.listdir(mount.path)) - {"kept"}
    assert left.isdisjoint(removed)
    assert left == set(names[len(names) - len(left) :])  # it removes them in their order
    assert {n for n in left if (mount.path / n).read_bytes() != n.encode() * 1000} == set()


def test_killed_while_cutting_into_chunks(mount: Mount) -> None:
    """Files that were being cut into chunks are whole after the crash, and cut later."""
    names = []
    for number in range(ROUNDS):
        batch = [f"{number}-{n}" for n in range(30)]
        for name in batch:
            (mount.path / name).write_bytes(content(name))
            fd = os.open(mount.path / name, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        fd = os.open(mount.path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        names += batch
        syncing = subprocess.Popen(
            [*MODELFS, "sync", mount.path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        mount.kill(after=random.Random(number).uniform(0.1, 0.6))
        syncing.wait(DEADLINE)
        recover(mount)
        assert {n for n in names if (mount.path / n).read_bytes() != content(n)} == set()
    mount.sync()
    drop_kernel_caches()
    assert {n for n in names if (mount.path / n).read_bytes() != content(n)} == set()
    assert mount.stats()["pending_files"] == 0


@pytest.mark.parametrize("victim", ["the daemon", "gc itself"])
def test_killed_while_collecting(mount: Mount, victim: str) -> None:
    """Files that were kept are whole after gc was killed, and after the next gc."""
    draw = random.Random(victim)
    kept = [f"{n}" for n in range(0, 60, 2)]
    for number in range(60):
        (mount.path / f"{number}").write_bytes(content(f"{number}"))
    mount.sync()
    for number in range(1, 60, 2):
        (mount.path / f"{number}").unlink()
    mount.sync()
    for _ in range(ROUNDS):
        if victim == "the daemon":
            collecting = subprocess.Popen(
                [*MODELFS, "gc", mount.store], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            mount.kill(after=draw.uniform(0.2, 0.7))
            collecting.wait(DEADLINE)
        else:
            mount.stop()
            start_killed(draw.uniform(0.2, 0.7), "gc", mount.store)
        recover(mount)
        assert {n for n in kept if (mount.path / n).read_bytes() != content(n)} == set()
    mount.stop()
    modelfs("gc", mount.store)
    mount.start()
    assert sorted(os.listdir(mount.path)) == sorted(kept)
    assert {n for n in kept if (mount.path / n).read_bytes() != content(n)} == set()


def test_killed_while_recovering(mount: Mount) -> None:
    """After a crash during a recovery, the next mount recovers."""
    draw = random.Random(5)
    names = [f"{n}" for n in range(40)]
    for name in names:
        (mount.path / name).write_bytes(content(name))
    os.sync()
    mount.sync()
    (mount.path / "unfinished").write_bytes(b"x" * 3_000_000)
    mount.kill()
    for _ in range(2 * ROUNDS):
        start_killed(draw.uniform(0.1, 0.7), "mount", "--foreground", mount.store, mount.path)
        mount.clear()
    recover(mount)
    assert {n for n in names if (mount.path / n).read_bytes() != content(n)} == set()


def test_killed_while_waiting_for_mapped_pages(fuse: None, store: Path, tmp_path: Path) -> None:
    """A daemon killed while a sync waits for its own mount's pages ends, and its mount with it.

    A thread of it that waited for an answer of its own mount would wait for ever: the mount would
    hang, and the store stay locked. The disk is one that never answers.
    """
    reached = tmp_path / "reached"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib, time\n"
        f"def never(fd):\n    pathlib.Path({str(reached)!r}).touch()\n    time.sleep(3600)\n"
        "os.fdatasync = never\n"
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        mount = Mount(store, tmp_path / "mnt")
        mount.start()
    with (mount.path / "x").open("wb", buffering=0) as file:
        file.write(b"x")
        syncing = subprocess.Popen(
            [*MODELFS, "sync", mount.path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(reached.exists)
        mount.kill()
        assert syncing.wait(DEADLINE) == 1
    mount.start()
    mount.close()


def test_dead_mount_point(mount: Mount) -> None:
    """The mount point of a killed daemon is recognised; `umount` clears it for the next mount."""
    (mount.path / "x").write_text("x")
    mount.sync()
    mount.kill(clear=False)
    refused = subprocess.run(
        [*MODELFS, "mount", mount.store, mount.path], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert f"modelfs umount {mount.path}" in refused.stderr
    modelfs("umount", mount.path)
    mount.start()
    assert (mount.path / "x").read_text() == "x"
