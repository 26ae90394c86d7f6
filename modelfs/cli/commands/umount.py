"""`umount`."""

import contextlib
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from modelfs.cli import client
from modelfs.cli.failure import Failure
from modelfs.cli.fusermount import clear, unmount
from modelfs.cli.params import PATH
from modelfs.cli.places import (
    inside,
    is_dead,
    is_store,
    mount_point_of,
    mounted_at,
    mounted_elsewhere,
    mounts,
    store_of_mount,
)
from modelfs.errors import StoreReadOnly
from modelfs.store.folder import is_locked
from modelfs.store.store import Store

POLL_SECONDS: Final = 0.02
NOTE_SECONDS: Final = 5.0
USERS_SHOWN: Final = 5


@click.command()
@click.argument("mountpoint", type=PATH)
def umount(mountpoint: Path) -> None:
    """Unmount, and return when all is durable.

    Fails if the mount at MOUNTPOINT is in use, and tells by whom. A mount whose daemon ended
    without unmounting, which answers every access with "Transport endpoint is not connected", is
    cleared away.
    """
    path = Path(os.path.realpath(mountpoint))
    if is_dead(path):
        while is_dead(path):
            clear(path)
        click.echo(
            f"{path} was a mount whose daemon had ended: cleared. "
            "Its store is at its last commit; mount it again to go on."
        )
        return
    store = _check_mounted(path)
    # Then nothing is to become durable, and the lock is somebody else's.
    read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    device = path.stat().st_dev
    with _process_of_daemon(store) as daemon:
        _unmount(path)
        if not read_only:
            _wait_until_durable(store, daemon, device)
            _check_durable(store)


def _check_mounted(path: Path) -> Path:
    """Return the store that is mounted at a path."""
    if not path.exists():
        raise Failure(f"{path} does not exist; `findmnt -t fuse.modelfs` lists what is mounted")
    store, entry = store_of_mount(path), mounted_at(path)
    if entry is None and store is not None:
        top = mount_point_of(path)
        raise Failure(f"{path} is a place in a mount; to unmount it: modelfs umount {top}")
    if entry is None:
        what = "a store, not the folder where it is mounted" if is_store(path) else "not mounted"
        raise Failure(f"{path} is {what}; `findmnt -t fuse.modelfs` lists what is mounted")
    if store is None:
        raise Failure(f"{path} is a mount of {entry.kind}, not of modelfs; umount(8) unmounts it")
    return store


def _unmount(path: Path) -> None:
    if (problem := unmount(path)) is None:
        return
    if "busy" in problem:
        raise Failure(f"{path} is in use by {_users(path)}; end that and try again")
    raise Failure(f"cannot unmount {path}: {problem}")


# -- who uses a mount


def _users(path: Path) -> str:
    """Say who keeps a mount busy: mounts below it, or processes, as fuser(1) finds them."""
    below = [str(entry.path) for entry in mounts() if path in entry.path.parents]
    if below:
        return f"the mount at {below[-1]}"
    users = [f"{name} (process {pid})" for pid, name in _processes_in(path)]
    if not users:
        return f"a process that is not seen from here (as root: fuser -vm {path})"
    more = f" and {len(users) - USERS_SHOWN} more" if len(users) > USERS_SHOWN else ""
    return ", ".join(users[:USERS_SHOWN]) + more


def _processes_in(path: Path) -> Iterator[tuple[int, str]]:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(inside(used, path) for used in _used_by(process)):
                yield int(process.name), (process / "comm").read_text().strip()


def _used_by(process: Path) -> Iterator[Path]:
    """Yield the paths that a process works in, has open or has mapped."""
    for link in (process / "cwd", process / "root", process / "exe", *(process / "fd").iterdir()):
        with contextlib.suppress(OSError):
            yield link.readlink()
    for line in (process / "maps").read_text(errors="surrogateescape").splitlines():
        if (at := line.find("/")) >= 0:
            yield Path(line[at:])


# -- waiting


@contextlib.contextmanager
def _process_of_daemon(store: Path) -> Iterator[int | None]:
    """Yield a descriptor that is readable when the daemon has ended; None if it is not seen."""
    process = None
    with contextlib.suppress(OSError, Failure):
        if (daemon := client.connect(store)) is not None:
            with daemon:
                process = os.pidfd_open(daemon.pid) if daemon.pid else None
    try:
        yield process
    finally:
        if process is not None:
            os.close(process)


def _wait_until_durable(store: Path, daemon: int | None, device: int) -> None:
    """Wait until the daemon has let go of the store, or has ended."""
    began, noted = time.monotonic(), False
    # The lock alone does not tell: somebody may mount the store again at once.
    while _is_locked(store) and not _has_ended(daemon):
        time.sleep(POLL_SECONDS)
        if not noted and time.monotonic() - began > NOTE_SECONDS:
            noted = True
            _check_gone(store, device)
            click.echo(
                "modelfs: unmounted; waiting for what was written to be durable "
                "(Ctrl-C ends the waiting only)",
                err=True,
            )


def _check_gone(store: Path, device: int) -> None:
    if (found := mounted_elsewhere(device)) is not None:
        process, place = found
        raise Failure(
            f"unmounted here, but process {process} has it mounted still, at {place}, so that the "
            f"daemon goes on; to make durable what was written: modelfs sync {store}"
        )


def _check_durable(store: Path) -> None:
    if _is_locked(store):
        return  # mounted again already
    with Store(store, read_only=True) as left:
        if left.in_use:
            raise Failure(
                f"unmounted, but the daemon ended before all was durable; see {store}/daemon.log, "
                "then mount again: what was fsynced or committed is there"
            )


def _is_locked(store: Path) -> bool:
    try:
        return is_locked(store)
    except StoreReadOnly as exc:
        raise Failure(f"unmounted, but {store} cannot be watched: {exc}") from exc


def _has_ended(process: int | None) -> bool:
    return process is not None and bool(select.select([process], [], [], 0)[0])
