"""`mount.modelfs`: the program by which mount(8), and so /etc/fstab, mounts a store.

mount(8) calls the helper of a file system ("EXTERNAL HELPERS" in its manual page)::

    /sbin/mount.fuse.modelfs STORE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]

If there is none, it calls libfuse's, mount.fuse3(8), and that one calls the command of the type:
`modelfs STORE MOUNTPOINT -o OPTIONS`. So `modelfs` itself is a helper if its first argument is a
path, and no link in /sbin is needed.

mount.fuse3 adds `dev` and `suid` to the options of root, and mount(8) removes them from those that
it is given, so here they are no request of a user. They are dropped: a mount has `nosuid`
and `nodev` by either way. `modelfs mount -o suid,dev` mounts without.

Example. /etc/fstab has the line `/srv/store /srv/models fuse.modelfs ro,nofail 0 0`. `mount -a`
calls `mount.fuse3`, which calls `modelfs /srv/store /srv/models -o ro,nofail,dev,suid`. That is
`modelfs mount -o ro,nofail -- /srv/store /srv/models`.
"""

import getopt
import sys
from collections.abc import Sequence
from typing import Final

import click

from modelfs.cli import main as command
from modelfs.cli.failure import Code

# The options that mount.fuse3 adds.
ADDED: Final = frozenset({"dev", "suid"})
USAGE: Final = "usage: mount.modelfs STORE MOUNTPOINT [-sfnv] [-o OPT[,OPT]] [-t TYPE]"


def run(arguments: Sequence[str]) -> int:
    """Mount a store as mount(8) asks for it, and return the exit code."""
    try:
        options, places = getopt.gnu_getopt([*arguments], "sfnvN:o:t:h", ["help"])
        store, mountpoint = places or ("", "")
    except (getopt.GetoptError, ValueError) as exc:
        click.echo(f"modelfs: {exc}; {USAGE}", err=True)
        return Code.USAGE
    names = {name for name, _ in options}
    if names & {"-h", "--help"} or not places:
        click.echo(USAGE)
        return Code.OK if places or names else Code.USAGE
    if "-f" in names:
        return Code.OK  # "fake": do everything but the mount
    given: list[str] = []
    for value in (value for name, value in options if name == "-o"):
        given += ["-o", ",".join(text for text in value.split(",") if text not in ADDED)]
    return command.run(["mount", *given, "--", store, mountpoint])


def main() -> None:
    """Run `mount.modelfs`, and end the process with its exit code."""
    command.end_with(run, sys.argv[1:])
