"""The permission of other users to read files that are made later in a store.

A store is its owner's alone until he lets others read it, by the modes of its folders and files.
They have to read the new files, too: optimize and gc write new packs, and remove the old ones. So a
new file may be read by those who may list the folder that it is made in, and search it. The
permission to write is never passed on.

The group is that of the folder. The owner has to be a member of it, or the folder to be setgid, see
inode(7). In a folder with an ACL the mode of the group is the mask of the list, see acl(5). The
kernel gives a new file the list that is the default one of its folder (`setfacl -d`). Without that
group or that list, a new file's group may read it only where all others may.

Example. The folder `packs` has the mode 0750 and the group 4000. A new pack in it has the mode
0640 and that group, for any umask. After `chmod 700 packs` the next one has the mode 0600.
"""

import contextlib
import os
import stat
from typing import Final

ACL: Final = "system.posix_acl_access"
_GROUP: Final = stat.S_IRGRP | stat.S_IXGRP
_OTHERS: Final = stat.S_IROTH | stat.S_IXOTH


def read_bits(folder: int) -> int:
    """Return the bits of a mode that let those read a new file who may read its folder."""
    mode = os.fstat(folder).st_mode
    group = stat.S_IRGRP if mode & _GROUP == _GROUP else 0
    others = stat.S_IROTH if mode & _OTHERS == _OTHERS else 0
    return group | others


def give_group(folder: int, file: int, bits: int) -> int:
    """Give a new file the group of its folder.

    Args:
        folder: its descriptor.
        file: its descriptor; this process has made the file.
        bits: as `read_bits` returns them.

    Returns:
        The bits that the file may have: none if its group is another, or if the permission of the
        folder's group is that of a list which the file lacks, and not all others may read.
    """
    if not bits & stat.S_IRGRP:
        return bits
    group = os.fstat(folder).st_gid
    if os.fstat(file).st_gid != group:
        with contextlib.suppress(OSError):
            os.fchown(file, -1, group)
    has_group = os.fstat(file).st_gid == group
    has_list = _has_list(file) or not _has_list(folder)
    # Where all others may read, the file's group may, too: no secret is left to keep from it.
    return bits if (has_group and has_list) or bits & stat.S_IROTH else 0


def _has_list(fd: int) -> bool:
    try:
        return bool(os.getxattr(f"/proc/self/fd/{fd}", ACL))  # the folder is opened with O_PATH
    except OSError:
        return False
