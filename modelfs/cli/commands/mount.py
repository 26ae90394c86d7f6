"""`mount`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from modelfs.cli import logs
from modelfs.cli.daemonize import run_in_background
from modelfs.cli.failure import Failure
from modelfs.cli.fusermount import clear
from modelfs.cli.mount_options import parse_options
from modelfs.cli.params import PATH, size
from modelfs.cli.places import inside, is_dead, is_store, mount_point_of, mounted_at, store_of_mount
from modelfs.fs.mount_options import MountOptions
from modelfs.store.chunks.cache import CAPACITY

LOG_NAME: Final = "daemon.log"
FUSE_DEVICE: Final = Path("/dev/fuse")
MOUNT_KIND: Final = "fuse.modelfs"
FUSE_CONF: Final = Path("/etc/fuse.conf")


@click.command()
@click.argument("store", type=PATH)
@click.argument("mountpoint", type=PATH)
@click.option("--foreground", is_flag=True, help="Stay, and log to stderr.")
@click.option(
    "--cache-size",
    type=size,
    help="Memory for decoded chunks, such as 256MiB (which is the default) or 4GiB.",
)
@click.option("--read-only", is_flag=True, help="Refuse every change. The store stays as it is.")
@click.option(
    "--allow-other",
    is_flag=True,
    help="Let other users in, as far as modes and owners allow. "
    "Unless you are root, /etc/fuse.conf has to have the line user_allow_other.",
)
@click.option(
    "--limit",
    type=size,
    help="What the store may take on its disk, such as 200GB. Without it, all that is there.",
)
@click.option(
    "--replace",
    is_flag=True,
    help="Clear MOUNTPOINT first if a daemon that ended left its mount there. "
    "Nothing else that is mounted there is touched.",
)
@click.option(
    "-o",
    "options",
    metavar="OPT[,OPT]",
    multiple=True,
    help="Options as in fstab: ro, rw, allow_other, cache_size=SIZE, limit=SIZE, replace, "
    "fsname=NAME, nosuid, nodev, noexec. "
    "Those for mount(8) and systemd, such as noatime, _netdev or x-*, are accepted.",
)
def mount(  # noqa: PLR0913 - one parameter for each option
    *,
    store: Path,
    mountpoint: Path,
    foreground: bool,
    cache_size: int | None,
    read_only: bool,
    allow_other: bool,
    limit: int | None,
    replace: bool,
    options: tuple[str, ...],
) -> None:
    """Show the files of STORE at the folder MOUNTPOINT.

    Returns when the files are there. What the daemon has to say later is in STORE/daemon.log;
    `modelfs umount MOUNTPOINT` ends it.
    """
    parsed = parse_options(options)
    if cache_size is None:
        cache_size = CAPACITY if parsed.cache_size is None else parsed.cache_size
    wanted = MountOptions(
        _check_store(store),
        _check_mountpoint(mountpoint, replace=replace or parsed.replace),
        cache_size,
        read_only or bool(parsed.read_only),
        allow_other or parsed.allow_other,
        parsed.limit if limit is None else limit,
        parsed.passed_on,
    )
    _check_apart(wanted)
    _check_fuse(wanted)
    if foreground:
        logs.of_foreground_daemon()
        _serve(wanted, lambda: None)
    else:
        run_in_background(lambda ready: _serve(wanted, ready), wanted.store / LOG_NAME)


def _serve(wanted: MountOptions, ready: Callable[[], None]) -> None:
    try:
        # Not before it is needed: the other commands work where FUSE is missing.
        from modelfs.fs.daemon import run  # noqa: PLC0415
    except ImportError as exc:
        raise Failure(f"cannot mount without pyfuse3 and libfuse 3; install them ({exc})") from exc
    run(wanted, ready)


def _check_store(store: Path) -> Path:
    if is_store(store):
        return store.resolve()
    if not store.exists():
        raise Failure(f"{store} does not exist; `modelfs mkfs {store}` makes a store there")
    raise Failure(f"{store} is not a modelfs store; `modelfs mkfs` makes one in an empty folder")


def _check_mountpoint(mountpoint: Path, *, replace: bool) -> Path:
    if replace:
        _clear_dead(mountpoint)
    if is_dead(mountpoint):
        raise Failure(
            f"{mountpoint} is in a mount whose daemon ended; mount with --replace, "
            f"or clear it first with: modelfs umount {mount_point_of(mountpoint)}"
        )
    if not mountpoint.exists():
        raise Failure(f"{mountpoint} does not exist; `mkdir -p {mountpoint}` makes it")
    if not mountpoint.is_dir():
        raise Failure(f"{mountpoint} is not a folder; name one to mount at")
    resolved = mountpoint.resolve()
    entry = mounted_at(resolved)
    # With x-systemd.automount, the place is held by an autofs until it is mounted over.
    if entry is not None and entry.kind != "autofs":
        if (store := store_of_mount(resolved)) is not None:
            raise Failure(
                f"{store} is mounted at {mountpoint} already; "
                f"to end that: modelfs umount {mountpoint}"
            )
        raise Failure(f"{mountpoint} is a mount of {entry.kind} already; name another folder")
    return resolved


def _clear_dead(mountpoint: Path) -> None:
    path = Path(os.path.realpath(mountpoint))
    # Another file system's mount may be as dead, and is for somebody else to clear.
    while (entry := mounted_at(path)) and entry.kind == MOUNT_KIND and is_dead(path):
        clear(path)


def _check_apart(wanted: MountOptions) -> None:
    if inside(wanted.mountpoint, wanted.store):
        raise Failure(f"{wanted.mountpoint} is inside the store; name a folder outside of it")
    if inside(wanted.store, wanted.mountpoint):
        raise Failure(f"the store lies in {wanted.mountpoint}, which would hide it; name another")


def _check_fuse(wanted: MountOptions) -> None:
    if not FUSE_DEVICE.exists():
        raise Failure(f"{FUSE_DEVICE} is missing; as root: modprobe fuse")
    if os.geteuid() == 0:
        return
    if not os.access(wanted.mountpoint, os.W_OK):
        raise Failure(f"{wanted.mountpoint} is not yours to write to; name a folder of your own")
    if wanted.allow_other and not _others_allowed():
        raise Failure(f"--allow-other needs the line user_allow_other in {FUSE_CONF}")


def _others_allowed() -> bool:
    try:
        return "user_allow_other" in map(str.strip, FUSE_CONF.read_text().splitlines())
    except OSError:
        return False
