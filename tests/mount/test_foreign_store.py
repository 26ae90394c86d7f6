"""Stores in other users' hands, and stores that are not where they were."""

import os
import pwd
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from modelfs.cli.main import COMMANDS
from modelfs.store.create import create_store
from modelfs.store.store import Store
from tests.support import users
from tests.support.mounts import MODELFS, PREFIX, Mount, becomes_owner, mounted, run, wait_until
from tests.support.stores import stored_file
from tests.support.users import ALICE, BOB, Ids, User, user

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user"),
]

MODULES: Final = (
    *(f"modelfs.cli.commands.{name}" for name in COMMANDS),
    *("modelfs.cli.render", "modelfs.fs.daemon", "modelfs.reader.entry"),
)
CONTENT: Final = b"content" * 10_000
# Alice's mount, made by root: the user of a FUSE mount is the real user ID of the process.
MADE_BY_ALICE: Final = ("setpriv", f"--ruid={ALICE.uid}")

# A user with a name, which fusermount3 needs.
NAMED: Final = Ids(1, 1, 1)
# It may read the interpreter and the package, which may be at a private path.
AS_NAMED: Final = (
    *("setpriv", f"--reuid={NAMED.uid}", f"--regid={NAMED.gid}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)


@pytest.fixture
def top(fuse: None) -> Iterator[Path]:
    """A folder that all users may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def theirs(top: Path) -> Path:
    """A store of ALICE's, with a file."""
    store = top / "store"
    create_store(store)
    with Store(store) as opened:
        stored_file(opened, b"x", CONTENT)
    (top / "mnt").mkdir()
    for path in (store, *store.rglob("*")):
        os.chown(path, ALICE.uid, ALICE.gid)
    return store


def done(*arguments: str | Path) -> str:
    """Run a command that must succeed, and return its output."""
    code, output = attempt(*arguments)
    assert code == 0, output
    return output


def attempt(*arguments: str | Path) -> tuple[int, str]:
    """Run a command; return its exit code and its output."""
    if arguments[0] != "mount":  # which forks
        code, out, err = users.command(*map(str, arguments))
        return code, out + err
    done = subprocess.run(
        [*MODELFS, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stdout + done.stderr


def state(store: Path) -> dict[Path, tuple[int, ...]]:
    """Return the size, time, owner and mode of everything in a store."""
    return {
        path: (node.st_ino, node.st_size, node.st_mtime_ns, node.st_uid, node.st_mode)
        for path in (store, *store.rglob("*"))
        for node in [path.lstat()]
    }


def test_root_needs_trust(theirs: Path, top: Path) -> None:
    """Without it each command fails with the path, the owner and the option; it writes nothing."""
    before = state(theirs)
    commands: list[list[str | Path]] = [
        *([name, theirs] for name in ("stats", "sync", "gc", "optimize", "scrub", "fsck")),
        ["fsck", "--repair", theirs],
        ["gc", "--dry-run", theirs],
        ["inspect", "--store", theirs, "x"],
        ["mount", theirs, top / "mnt"],
        ["mount", "--read-only", theirs, top / "mnt"],
    ]
    for command in commands:
        code, output = attempt(*command)
        assert (code, output.count("\n")) == (8 if "fsck" in command else 1, 1), output
        assert f"permission denied: {theirs} (owned by user {ALICE.uid}" in output
        assert "--trust" in output
    assert state(theirs) == before
    for command in commands:
        code, output = attempt(command[0], "--trust", *command[1:])
        assert code == 0, output
        if command[0] == "mount":
            assert (top / "mnt" / "x").read_bytes() == CONTENT
            code, output = attempt("umount", top / "mnt")
            is_writer = "--read-only" not in command
            assert (code, "--trust" in output) == ((1, True) if is_writer else (0, False))
            if is_writer:
                done("stats", "--trust", top / "mnt")
                done("umount", "--trust", top / "mnt")
    # Root has left no file of its own, so the owner can go on.
    assert {path.lstat().st_uid for path in (theirs, *theirs.rglob("*"))} == {ALICE.uid}
    with user(ALICE, top, *MODULES) as alice:
        assert _code(alice, "fsck", "--data", theirs) == 0


@becomes_owner
def test_a_teams_library(theirs: Path, top: Path) -> None:
    """Another user reads a store if its modes let him, beside its daemon too; nothing else."""
    for path in (theirs, *theirs.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    with user(BOB, top, *MODULES) as bob:
        before = state(theirs)
        assert bob(users.read_files, str(theirs), False) == {"x": CONTENT}
        for command in (["stats"], ["fsck", "--data"], ["gc", "--dry-run"]):
            assert _code(bob, *command, theirs) == 0
        assert state(theirs) == before
        for command in (["gc"], ["sync"], ["fsck", "--repair"], ["scrub"]):
            # Trust would not help him.
            for options in ([], ["--trust"]):
                refusal = _refusal(bob, *command, *options, theirs)
                assert f"(owned by user {ALICE.uid}; try as that user)" in refusal
                assert "--trust" not in refusal
        with mounted(theirs, top / "mnt", "--trust") as mount:
            assert "NoSlots" in str(bob(users.read_files, str(theirs), False))
            (theirs / "index" / "lock.mdb").chmod(0o666)
            assert bob(users.read_files, str(theirs), False) == {"x": CONTENT}
            # As of the last commit, since the daemon does not answer him.
            for command in (["stats"], ["inspect", "x", "--store"], ["scrub", "--status"]):
                assert _code(bob, *command, theirs) == 0
            refusal = _refusal(bob, "fsck", "--data", theirs)
            assert "only the owner of the store and root may use its daemon" in refusal
            assert "unmount the store first" in refusal
            mount.terminate()
            shutil.chown(theirs, 0, 0)  # for the check at the end
            for path in theirs.rglob("*"):
                shutil.chown(path, 0, 0)


@pytest.mark.skipif(
    not any(user.pw_uid == NAMED.uid for user in pwd.getpwall()), reason="no user 1"
)
@pytest.mark.skipif(
    not Path("/dev/fuse").stat().st_mode & stat.S_IROTH, reason="only root may mount here"
)
def test_a_store_changes_hands(top: Path) -> None:
    """Each message has the command that mends all of its kind, up to files in the mount."""
    store, path = top / "a store", _made(top / "mnt")
    create_store(store)
    os.chown(path, NAMED.uid, NAMED.gid)
    with user(NAMED, top, *MODULES) as owner:
        assert _refusal(owner, "mount", store, path).endswith("(owned by user 0; try sudo)\n")
        os.chown(store, NAMED.uid, NAMED.gid)
        chown = f"chown -R {NAMED.uid} '{store}'"
        refusal = _refusal(owner, "mount", store, path)
        assert f"{store}/FORMAT (owned by user 0; to make it yours: sudo {chown})" in refusal
        for file in (store, *store.rglob("*")):
            file.chmod(0o775 if file.is_dir() else 0o664)
        (store / "FORMAT").chmod(0o644)
        store.chmod(0o755)
        refusal = _refusal(owner, "stats", store)
        assert (
            f"and the store by user {NAMED.uid}; to give it to that user: sudo {chown})" in refusal
        )
        run("sh", "-c", chown)
        refusal = _refusal(owner, "stats", store)
        assert f"to end that: chmod -R go-w '{store}')" in refusal
        run("chmod", "-R", "go-w", store)
        assert _code(owner, "stats", store) == 0
        mounting = subprocess.run(
            [*AS_NAMED, *MODELFS, "mount", store, path], capture_output=True, text=True, check=False
        )
        assert (mounting.returncode, mounting.stdout) == (0, "")
        assert owner(users.make, str(path / "x"), 0o600) == "EACCES"
        note = mounting.stderr.partition("to give all of its files to this user: ")[2].strip()
        for step in note.split(" && "):
            command = shlex.split(step.removeprefix("sudo "))
            who = () if step.startswith("sudo ") else AS_NAMED
            run(*who, *(MODELFS if command[0] == "modelfs" else command[:1]), *command[1:])
        quiet = subprocess.run(
            [*AS_NAMED, *MODELFS, "mount", store, path], capture_output=True, text=True, check=False
        )
        assert (quiet.returncode, quiet.stderr) == (0, "")
        assert owner(users.make, str(path / "x"), 0o600) is None
        run(*AS_NAMED, *MODELFS, "umount", path)


@becomes_owner
@pytest.mark.parametrize("mode", [0o755, 0o750])
def test_a_teams_library_stays_readable(theirs: Path, top: Path, mode: int) -> None:
    """Its readers read later files, beside the daemon and after it, and packs written again."""
    for path in (theirs, *theirs.rglob("*")):
        os.chown(path, -1, users.TEAM)
        path.chmod(mode if path.is_dir() else mode & 0o644)
    (theirs / "index" / "lock.mdb").chmod(mode & 0o644 | 0o020)
    expected = {"x": CONTENT}
    with user(BOB, top, *MODULES) as bob, mounted(theirs, top / "mnt", "--trust") as mount:
        for name in ("removed", "stays"):
            expected[name] = os.urandom(3_000_000)
            (mount.path / name).write_bytes(expected[name])
            run("sync", mount.path / name)  # staged: fsync(2) of the file
            assert bob(users.read_files, str(theirs), False) == expected
            done("sync", "--trust", mount.path)
            assert bob(users.read_files, str(theirs), False) == expected
        before = set((theirs / "packs").iterdir())
        (mount.path / "removed").unlink()
        del expected["removed"]
        done("gc", "--trust", mount.path)
        done("optimize", "--trust", mount.path)
        assert before - set((theirs / "packs").iterdir())
        assert bob(users.read_files, str(theirs), False) == expected
        mount.terminate()
        assert bob(users.read_files, str(theirs), False) == expected
        assert _code(bob, "fsck", "--data", theirs) == 0
        for path in (theirs, *theirs.rglob("*")):  # for the check at the end
            shutil.chown(path, 0, 0)


def test_unmounting_another_users_mount(top: Path) -> None:
    """The error names the user who mounted it, whether its daemon lives or not."""
    store, path = top / "store", top / "mnt"
    create_store(store)
    with (
        user(BOB, top, *MODULES, "modelfs.cli.mount_users") as bob,
        mounted(store, path, "--allow-other") as mount,
    ):
        expected = f"permission denied: {path} (user 0 mounted it; try as that user)"
        assert _refusal(bob, "umount", path) == f"modelfs: {expected}\n"
        assert path.is_mount()
        mount.kill(clear=False)
        assert _refusal(bob, "umount", path) == f"modelfs: {expected}\n"
        done("umount", path)


@becomes_owner
def test_owners_in_a_users_fuse_mount(top: Path) -> None:
    """Her mount may show a store as root's; root needs trust for it, and makes none there."""
    outer, inner = top / "outer", top / "mnt" / "store"
    create_store(outer)
    with mounted(outer, top / "mnt") as mount:
        done("mkfs", inner)  # root's own mount is believed
        for command in (["gc"], ["stats"], ["fsck", "--data"]):
            done(*command, inner)
        (top / "mnt" / "new").mkdir()
        mount.terminate()
        alices = Mount(outer, top / "mnt", "--allow-other", prefix=(*PREFIX, *MADE_BY_ALICE))
        alices.start()
        try:
            assert inner.stat().st_uid == 0
            for command in (["gc"], ["stats"], ["fsck"], ["sync"]):
                code, output = attempt(*command, inner)
                assert (code, output.count("\n")) == (8 if "fsck" in command else 1, 1)
                assert f"{inner} (in a FUSE mount of user {ALICE.uid}" in output
            assert "in a FUSE mount of user" in attempt("mkfs", top / "mnt" / "new")[1]
            done("stats", "--trust", inner)
        finally:
            # It names root's store, and could name one that is mounted elsewhere.
            code, output = attempt("umount", top / "mnt")
            alices.wait()
        assert code == 1
        assert f"did not wait: the mount was of user {ALICE.uid}, and" in output


def _code(who: User, *command: str | Path) -> int:
    answer = who(users.command, *map(str, command))
    assert isinstance(answer, tuple), answer
    return int(answer[0])


def _refusal(who: User, *command: str | Path) -> str:
    answer = who(users.command, *map(str, command))
    assert isinstance(answer, tuple), answer
    assert answer[0] in (1, 8), answer
    return str(answer[2])


# -- identity


def test_a_store_is_renamed_while_it_is_mounted(top: Path) -> None:
    """Commands on its new path, and on the mount, reach its daemon; another takes its old path."""
    store, moved = top / "store", top / "moved"
    create_store(store)
    with mounted(store, top / "mnt") as mount:
        (mount.path / "x").write_bytes(CONTENT)
        store.rename(moved)
        create_store(store)
        for place in (moved, mount.path):
            done("sync", place)
            assert '"files": 1' in done("stats", "--json", place)
        assert "the store is empty" in done("stats", store)
        assert "moved is mounted at" in attempt("mount", moved, _made(top / "second"))[1]
        assert len(list((moved / "packs").iterdir())) == 1
        assert list((store / "packs").iterdir()) == []
        mount.store = moved
        mount.stop()
        assert not (moved / "control.sock").exists()
        mount.start()
        assert (mount.path / "x").read_bytes() == CONTENT


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_copy_is_another_store(top: Path) -> None:
    """A copy that is made while the store is mounted has its UUID, and not its daemon."""
    store, copy = top / "store", top / "copy"
    create_store(store)
    with mounted(store, top / "mnt") as mount:
        with (mount.path / "x").open("xb", buffering=0) as file:  # so the daemon leaves it as it is
            file.write(CONTENT)
            os.fsync(file.fileno())
            run("cp", "-a", store, copy)
            assert (copy / "control.sock").is_socket()
            for command in ("sync", "gc"):
                assert attempt(command, copy)[0] == 0
            assert list((copy / "packs").iterdir()) != []
            assert list((store / "packs").iterdir()) == []
        (copy / "control.sock").unlink(missing_ok=True)
        os.link(store / "control.sock", copy / "control.sock")
        for command in ("sync", "gc", "stats", "scrub", "optimize"):
            code, output = attempt(command, copy)
            assert code == 1
            assert "which is another store" in output
        (copy / "control.sock").unlink()
        mount.sync()
    with mounted(copy, top / "mnt") as mount:
        assert (mount.path / "x").read_bytes() == CONTENT


SYNC_ELSEWHERE: Final = """
set -e
mount --bind "$1" "$2"
shift 2
exec "$@"
"""


def test_another_store_lies_at_the_path_in_a_container(top: Path) -> None:
    """A command on the mount reaches the mounted store, or fails; it never answers for another."""
    store, other = top / "store", top / "other"
    for path in (store, other):
        create_store(path)

    apart: list[str] = []

    def elsewhere(*command: str | Path) -> "subprocess.CompletedProcess[str]":
        shell = ("unshare", "--mount", *apart, "bash", "-c", SYNC_ELSEWHERE, "bash")
        return subprocess.run(
            [*shell, other, store, *MODELFS, *command],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    with mounted(store, top / "mnt") as mount:
        (mount.path / "x").write_bytes(CONTENT)
        assert elsewhere("sync", mount.path).returncode == 0
        mount.kill()
        mount.restart()
        assert (mount.path / "x").read_bytes() == CONTENT
        # In a PID namespace of its own, the command cannot find the folder.
        apart += ["--pid", "--fork", "--mount-proc"]
        for command in ("sync", "stats", "gc"):
            done = elsewhere(command, mount.path)
            assert done.returncode == 1
            assert "which does not exist here" in done.stderr
    assert list((other / "packs").iterdir()) == []


def test_a_daemon_keeps_to_its_folder(top: Path) -> None:
    """After its store was moved away, and another put in its place, it writes in the moved one."""
    store, moved = top / "store", top / "moved"
    create_store(store)
    done("mount", store, _made(top / "mnt"))
    try:
        store.rename(moved)
        create_store(store)
        before = state(store)
        for number in range(3):
            (top / "mnt" / f"{number}").write_bytes(os.urandom(3_000_000))
        (top / "mnt" / "0").unlink()
        done("sync", top / "mnt")
        done("gc", top / "mnt")
        daemon = int(run("fuser", moved / "lock").split()[0])
        os.kill(daemon, signal.SIGTERM)
        wait_until(lambda: not os.path.ismount(top / "mnt"))
        wait_until(lambda: not Path(f"/proc/{daemon}").exists())
    finally:
        subprocess.run(["umount", "-l", top / "mnt"], check=False, capture_output=True)
    assert state(store) == before
    assert "unmounted" in (moved / "daemon.log").read_text()
    assert "2 files" in done("fsck", "--data", moved)
    done("fsck", "--data", store)
    shutil.rmtree(moved)


Hostile = Callable[[Path, Path], None]


def _link_staging(store: Path, private: Path) -> None:
    shutil.rmtree(store / "staging")
    (store / "staging").symlink_to(private)


def _link(name: str) -> Hostile:
    def link(store: Path, private: Path) -> None:
        (store / name).unlink(missing_ok=True)
        (store / name).symlink_to(private / "a.txt")

    return link


HOSTILE: Final[dict[str, Hostile]] = {
    "staging": _link_staging,
    **{name: _link(name) for name in ("index/lock.mdb", "daemon.log", "FORMAT.new", "lock")},
    "control.sock": _link("control.sock"),
}


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("part", HOSTILE)
def test_links_of_another_user_reach_no_file_of_roots(
    theirs: Path, top: Path, part: str, *, trust: bool
) -> None:
    """Root's files stay as they are, though links in a store lead to them, and with trust, too."""
    private = _made(top / "private")
    private.chmod(0o700)
    for name in ("a.txt", "5-0-1"):
        (private / name).write_bytes(b"of root " * 1000)
    before = {path.name: path.read_bytes() for path in private.iterdir()}
    HOSTILE[part](theirs, private)
    (theirs / "FORMAT").write_text((theirs / "FORMAT").read_text().replace("format 4", "format 3"))
    option = ["--trust"] if trust else []
    for command in (["stats"], ["gc"], ["sync"], ["fsck", "--repair"]):
        attempt(*command, *option, theirs)
    if part in ("daemon.log", "control.sock") and trust:
        code, output = attempt("mount", *option, theirs, top / "mnt")
        assert (code, output.count("\n")) == (1, 1)
        assert f"permission denied: {theirs / part} (" in output
        assert "--trust" not in output
    assert {path.name: path.read_bytes() for path in private.iterdir()} == before
