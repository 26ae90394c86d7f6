"""The problem of a path that this user may not use, and the next step."""

import os
import stat
from pathlib import Path

from modelfs import mount_table
from modelfs.shell_word import shell_word


def permission_denied(path: Path) -> str:
    """Return the problem of a path that this user may not use, and the next step."""
    try:
        owner = path.stat().st_uid
        why = f"owned by user {owner}; {_advice(path, owner)}"
    except OSError:
        why = "not even root may use it here" if os.geteuid() == 0 else "try sudo"
        mount = mount_table.mounted_at(mount_table.mount_point_of(path))
        if mount is not None and mount.kind == mount_table.MODELFS:
            # Even root may not use it: see allow_other in mount.fuse(8).
            why = "another user mounted it without --allow-other; try as that user"
    return f"permission denied: {os.fspath(path)} ({why})"


def _advice(path: Path, owner: int) -> str:
    """Return the next step for a path that exists, and for all of the store that it lies in."""
    user = os.geteuid()
    if user == 0:
        return "not even root may use it here"
    if user == owner:
        return f"to let its owner use it: chmod u+rwX {shell_word(path)}"
    # Imported here, because most commands that fail would not need the 50 ms that it takes.
    from modelfs.store.folder import store_around  # noqa: PLC0415

    store = store_around(path)
    top = path if store is None else store
    if user in (top.stat().st_uid, top.parent.stat().st_uid):  # as after a restore by root
        recursive = "-R " if stat.S_ISDIR(top.stat().st_mode) else ""
        return f"to make it yours: sudo chown {recursive}{user} {shell_word(top)}"
    if (other := top.stat().st_uid) == 0:
        return "try sudo"
    # Not sudo, since root uses no store of another user's without --trust.
    return "try as that user" if other == owner else f"try as user {other}, who owns the store"
