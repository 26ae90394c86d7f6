"""`modelfs mount`."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from modelfs.cli import daemon_log, logs, params, render
from modelfs.cli.daemonize import run_in_background
from modelfs.cli.failure import Code, Failure
from modelfs.cli.fstab_options import parse_options
from modelfs.cli.fusermount import clear
from modelfs.cli.params import PATH, size
from modelfs.cli.places import find_mount_point, is_dead, is_store, store_of_mount
from modelfs.fs.host import session_io
from modelfs.fs.mount_options import MountOptions
from modelfs.mount_table import MODELFS, mount_point_of, mounted_at
from modelfs.shell_word import shell_word
from modelfs.store.chunks.cache import CAPACITY
from modelfs.store.disk.space import LIMIT_MIN
from modelfs.store.folder import identity_of, open_folder, store_around

FUSE_DEVICE: Final = Path("/dev/fuse")
FUSE_CONF: Final = Path("/etc/fuse.conf")


@click.command()
@click.argument("store", type=PATH)
@click.argument("mountpoint", type=PATH)
@click.option("--foreground", is_flag=True, help="Do not go into the background; log to stderr.")
@click.option(
    "--cache-size",
    type=size,
    help="Memory for decoded chunks, such as 4GiB. The default is 256MiB.",
)
@click.option("--read-only", is_flag=True, help="Mount read-only. The store is not changed.")
@click.option(
    "--allow-other",
    is_flag=True,
    help="Let other users access the files, subject to the usual permissions. "
    "For users other than root, /etc/fuse.conf must have the line user_allow_other.",
)
@click.option(
    "--limit",
    type=size,
    help="Largest size of the store on its disk, such as 200GB. The default is the whole disk.",
)
@click.option(
    "--replace",
    is_flag=True,
    help="If the daemon of an earlier modelfs mount at MOUNTPOINT was killed, clear that mount "
    "first. Any other mount is left alone.",
)
@params.trust
@click.option(
    "--passthrough",
    is_flag=True,
    help="Let the kernel itself read and write new files, until they are in chunks, and hot files. "
    "For root, and Linux 6.9 or later; without effect where that is not possible, below a --limit, "
    "and on disks of less than 3 GiB.",
)
@click.option(
    "--hot-size",
    type=size,
    help="Room on the disk for copies of files that are read much, which the kernel itself reads. "
    "0 for none. With --passthrough; the default is a quarter of the free room.",
)
@click.option(
    "--nonempty",
    is_flag=True,
    help="Mount over a folder that has files, which the mount hides.",
)
@click.option(
    "-o",
    "options",
    metavar="OPT[,OPT]",
    multiple=True,
    help="Options as in fstab: ro, rw, allow_other, cache_size=SIZE, limit=SIZE, replace, trust, "
    "nonempty, passthrough, hot_size=SIZE, sync, dirsync, fsname=NAME, nosuid, nodev, noexec. "
    "Options for mount(8) and systemd, such as noatime, _netdev and x-*, are ignored.",
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
    nonempty: bool,
    passthrough: bool,
    hot_size: int | None,
    trust: bool,
    options: tuple[str, ...],
) -> None:
    """Mount a store: show its files in a folder.

    MOUNTPOINT is an existing folder. The command returns when the files are there, and a daemon
    stays in the background; its log is STORE/daemon.log. End it with `modelfs umount MOUNTPOINT`.
    """
    fstab = parse_options(options)
    if not is_store(store):
        if store.exists():
            raise Failure(f"{store} is not a modelfs store; create one with: modelfs mkfs FOLDER")
        raise Failure(
            f"{store} does not exist; create a store there with: modelfs mkfs {shell_word(store)}"
        )
    if cache_size is None:
        cache_size = CAPACITY if fstab.cache_size is None else fstab.cache_size
    mount_options = MountOptions(
        store=store.resolve(),
        mountpoint=_check_mountpoint(mountpoint, replace=replace or fstab.replace),
        cache_size=cache_size,
        read_only=read_only or bool(fstab.read_only),
        allow_other=allow_other or fstab.allow_other,
        limit=fstab.limit if limit is None else limit,
        options=fstab.passed_on,
        trust=trust or fstab.trust,
        passthrough=passthrough or fstab.passthrough,
        hot_size=fstab.hot_size if hot_size is None else hot_size,
    )
    _check_not_mounted(mount_options)
    _check_possible(mount_options)
    open_folder(store, read_only=mount_options.read_only, trust=mount_options.trust)
    if not (nonempty or fstab.nonempty):
        _check_empty(mount_options.mountpoint)
    if foreground:
        logs.of_foreground_daemon()
        _serve(mount_options, lambda: None)
    else:
        run_in_background(
            lambda ready: _serve(mount_options, ready),
            lambda: daemon_log.begin(mount_options.store, trust=mount_options.trust),
            mount_options.store / daemon_log.LOG_NAME,
        )
        _note_foreign_top(mount_options)


def _serve(options: MountOptions, ready: Callable[[], None]) -> None:
    session_io.load(passthrough=options.passes_through)
    try:
        # Imported here, because the other commands must work where FUSE is missing.
        from modelfs.fs.daemon import run  # noqa: PLC0415
    except ImportError as exc:
        raise Failure(f"cannot mount without pyfuse3 and libfuse 3; install them ({exc})") from exc
    run(options, ready)


def _note_foreign_top(options: MountOptions) -> None:
    """Note that this user may not write in the top folder, as in a store that was given to him."""
    path, user = options.mountpoint, os.geteuid()
    if options.read_only or path.stat().st_uid == user or os.access(path, os.W_OK):
        return
    commands = (
        f"modelfs umount {shell_word(path)}",
        f"sudo modelfs mount --trust {shell_word(options.store)} {shell_word(path)}",
        f"sudo chown -R {user} {shell_word(path)}",
        f"sudo modelfs umount --trust {shell_word(path)}",
    )
    click.echo(
        "modelfs: mounted, but this user may not write in the store's top folder, owned by user "
        f"{path.stat().st_uid}; to give all of its files to this user: {' && '.join(commands)}",
        err=True,
    )


def _check_mountpoint(mountpoint: Path, *, replace: bool) -> Path:
    """Clear dead modelfs mounts if `replace` is set; return the resolved mount point.

    Raises:
        Failure: the path is not a folder, or is mounted already.
    """
    if replace:
        path = Path(os.path.realpath(mountpoint))
        while (entry := mounted_at(path)) and entry.kind == MODELFS and is_dead(path):
            clear(path)
    if is_dead(mountpoint):
        raise Failure(
            f"{mountpoint} is in a mount whose daemon ended; mount with --replace, "
            f"or clear it first with: modelfs umount {shell_word(mount_point_of(mountpoint))}"
        )
    if not mountpoint.exists():
        raise Failure(
            f"{mountpoint} does not exist; create it with: mkdir -p {shell_word(mountpoint)}"
        )
    if not mountpoint.is_dir():
        raise Failure(f"{mountpoint} is not a folder; name a folder to mount at")
    path = mountpoint.resolve()
    entry = mounted_at(path)
    # With x-systemd.automount an autofs is at the mount point until it is mounted over.
    if entry is not None and entry.kind != "autofs":
        if (store := store_of_mount(path)) is not None:
            raise Failure(
                f"{store.path} is mounted at {mountpoint} already; unmount it with: "
                f"modelfs umount {shell_word(mountpoint)}"
            )
        raise Failure(f"{mountpoint} is a mount of {entry.kind} already; name another folder")
    return path


def _check_not_mounted(options: MountOptions) -> None:
    """Check that the store is not mounted at another place, in a way that excludes this mount.

    Raises:
        Failure: it is.
    """
    if (other := find_mount_point(identity_of(options.store))) is not None:
        is_read_only = bool(os.statvfs(other).f_flag & os.ST_RDONLY)
        if not (is_read_only and options.read_only):
            raise Failure(
                f"{options.store} is mounted at {other} already; "
                f"unmount it with: modelfs umount {shell_word(other)}"
            )


def _check_empty(mountpoint: Path) -> None:
    """Check that the mount hides no files.

    Raises:
        Failure: the mount point has some.
    """
    if mounted_at(mountpoint) is not None:
        return  # an autofs: a look into it would wait for this very mount
    # A user who may not list the folder cannot miss its files.
    with contextlib.suppress(PermissionError), os.scandir(mountpoint) as entries:
        if any(entries):
            raise Failure(
                f"{mountpoint} has files, which the mount would hide; name an empty folder, "
                "or mount with --nonempty"
            )


def _check_possible(options: MountOptions) -> None:
    """Check the limit, the places of store and mount point, FUSE, and the user's rights.

    Raises:
        Failure: the mount would fail, or hide the store.
    """
    if options.limit is not None and options.limit < LIMIT_MIN:
        given, least = map(render.human_size, (options.limit, LIMIT_MIN))
        raise Failure(
            f"a limit of {given} leaves no room for files; give {least} or more", Code.USAGE
        )
    store, mountpoint = options.store, options.mountpoint
    # The store itself first: its files may have any owner, with --trust.
    around = store if mountpoint.is_relative_to(store) else store_around(mountpoint)
    if around is not None:
        raise Failure(f"{mountpoint} is inside the store {around}; name a folder outside of it")
    if store.is_relative_to(mountpoint):
        raise Failure(f"{mountpoint} contains the store, which it would hide; name another folder")
    if not FUSE_DEVICE.exists():
        raise Failure(f"{FUSE_DEVICE} is missing; load FUSE with: sudo modprobe fuse")
    if os.geteuid() == 0:
        return
    if not os.access(mountpoint, os.W_OK):
        raise Failure(f"permission denied: {mountpoint} (you must be able to write to it)")
    if options.allow_other:
        try:
            allowed = "user_allow_other" in map(str.strip, FUSE_CONF.read_text().splitlines())
        except OSError:
            allowed = False
        if not allowed:
            raise Failure(f"--allow-other needs the line user_allow_other in {FUSE_CONF}")
