"""`modelfs umount`."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from modelfs.cli import params
from modelfs.cli.daemon_log import LOG_NAME
from modelfs.cli.daemon_process import DaemonProcess
from modelfs.cli.failure import Failure
from modelfs.cli.fusermount import clear, unmount
from modelfs.cli.mount_users import users_of
from modelfs.cli.params import PATH
from modelfs.cli.places import is_dead, store_mounted_at
from modelfs.errors import NotAStore, StoreReadOnly
from modelfs.mount_table import mounted_elsewhere
from modelfs.shell_word import shell_word
from modelfs.store.disk.directory import Directory
from modelfs.store.disk.owners import user_behind
from modelfs.store.folder import is_locked, open_folder
from modelfs.store.store import Store

POLL_SECONDS: Final = 0.02
NOTE_SECONDS: Final = 5.0
# For so long a busy mount is tried again if no process is seen that uses it.
BUSY_SECONDS: Final = 1.0


@click.command()
@click.argument("mountpoint", type=PATH)
@params.trust
def umount(mountpoint: Path, *, trust: bool) -> None:
    """Unmount a store.

    Waits until everything is on the disk and the daemon has ended. Fails if programs still use the
    mount, and lists them. If the daemon was killed, so that the mount answers "Transport endpoint
    is not connected", the mount is cleared.
    """
    path = Path(os.path.realpath(mountpoint))
    if is_dead(path):
        while is_dead(path):
            clear(path)
        click.echo(
            f"cleared the mount at {path}, whose daemon had ended; "
            "the store has its last commit, and can be mounted again"
        )
        return
    mounted = store_mounted_at(path)
    device, user = path.stat().st_dev, _mounting_user(path)
    # A program of another user's may name any store as that of its mount, and any process.
    believed = mounted if user is None else None
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        # It has nothing to make durable, and the lock may be another process's.
        with DaemonProcess(None, believed) as daemon:
            _unmount(path)
            if daemon.is_found:
                other = _wait_for_end(daemon.has_ended, device, "the daemon has ended")
                if other is not None:
                    raise Failure(f"{_still_mounted(*other)}; unmount it there, too")
        return
    try:
        if (found := mounted.find()) is None:
            raise NotAStore("it does not exist here")  # noqa: TRY301 - as an error of `open_folder`
        folder = open_folder(found, read_only=True, trust=trust)
    except (NotAStore, OSError) as exc:
        _unmount(path)
        raise Failure(f"unmounted, but cannot watch the store {mounted.path}: {exc}") from exc
    with DaemonProcess(folder, believed, trust=trust) as daemon:
        _unmount(path)
        if user is not None and daemon.user not in (None, user):
            raise Failure(
                f"unmounted, but did not wait: the mount was of user {user}, and the daemon of the "
                f"store that it named, {folder.path}, is of user {daemon.user}"
            )
        _wait_until_durable(folder, daemon, device)


def _mounting_user(path: Path) -> int | None:
    """Return the user of a mount, None if it is root or this process's."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return user_behind(fd)
    finally:
        os.close(fd)


def _unmount(path: Path) -> None:
    """Unmount, again and again for a moment if no program is seen that uses the mount.

    Raises:
        Failure: the mount is in use, or cannot be unmounted.
    """
    until = time.monotonic() + BUSY_SECONDS
    while (problem := unmount(path)) is not None:
        if "busy" not in problem:
            raise Failure(f"cannot unmount {path}: {problem}")
        users = users_of(path)
        if users is None and time.monotonic() < until:
            # A process that looks up a name in the mount makes it busy for a moment, and is not
            # seen in /proc.
            time.sleep(POLL_SECONDS)
            continue
        if users is None:
            users = f"a process that this user cannot see (try: sudo fuser -vm {shell_word(path)})"
        raise Failure(
            f"{path} is in use by {users}; end that, or leave the folder in it, and try again"
        )


def _wait_until_durable(store: Directory, daemon: DaemonProcess, device: int) -> None:
    """Wait until the daemon has ended; until it has released the store if it was not found.

    Raises:
        Failure: another process still has the mount, or the daemon ended too early.
    """
    # The lock is not enough: another process may take it as soon as the daemon releases it, and the
    # daemon has files open on the disk until it ends, such as its log.
    ended = daemon.has_ended if daemon.is_found else lambda: not _is_locked(store)
    other = _wait_for_end(ended, device, "everything is on the disk")
    if other is not None:
        next_step = params.next_command("sync", store.path, trust=store.trust)
        raise Failure(f"{_still_mounted(*other)}; to write everything to the disk: {next_step}")
    if _is_locked(store):
        return  # mounted again already
    with Store(store, read_only=True, trust=store.trust) as opened:
        if opened.in_use:
            raise Failure(
                "unmounted, but the daemon ended before everything was on the disk; see its log "
                f"{store.path / LOG_NAME}, and mount again: all that was fsynced is there"
            )


def _wait_for_end(ended: Callable[[], bool], device: int, awaited: str) -> tuple[int, Path] | None:
    """Wait until the daemon of a mount has ended, with a note on stderr if that is long.

    Args:
        ended: whether it has ended.
        device: of the mount.
        awaited: the end of the note.

    Returns:
        None; or a process that still has the mount, and where, so that the daemon goes on.
    """
    began, noted = time.monotonic(), False
    while not ended():
        time.sleep(POLL_SECONDS)
        if not noted and time.monotonic() - began > NOTE_SECONDS:
            noted = True
            other = mounted_elsewhere(f"{os.major(device)}:{os.minor(device)}")
            if other is not None:
                return other
            click.echo(
                f"modelfs: unmounted; waiting until {awaited} (Ctrl-C ends only the waiting)",
                err=True,
            )
    return None


def _still_mounted(process: int, place: Path) -> str:
    return (
        f"unmounted here, but process {process} still has it mounted at {place}, "
        "so the daemon goes on"
    )


def _is_locked(store: Directory) -> bool:
    try:
        return is_locked(store)
    except StoreReadOnly as exc:
        raise Failure(f"unmounted, but cannot watch the store {store.path}: {exc}") from exc
