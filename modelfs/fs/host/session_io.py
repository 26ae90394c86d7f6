"""Capabilities and requests of FUSE that pyfuse3 lacks: compiled where that could be, else none.

The answer to INIT, the request that begins a session, has libfuse's flags. `_session_io` adds and
removes some. It has to be loaded before pyfuse3, which finds its function only then.

Example. Before each write of a program the kernel asks the mount for "security.capability", because
libfuse's FUSE_HANDLE_KILLPRIV leaves a write to a file with capabilities to the kernel. With
FUSE_HANDLE_KILLPRIV_V2 in its place the kernel remembers the first answer: for two files of 200
MiB, written in pieces of 64 KiB, 7 requests for attributes in place of 6,403 (counted).

Requests of three kinds are carried by requests for attributes: see docs/design/session.md.
"""

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Final

_MODULE: Final = "modelfs.fs.host._session_io"

# As in include/uapi/linux/fuse.h; those of `flags2` are shifted by 32.
HANDLE_KILLPRIV: Final = 1 << 19
HANDLE_KILLPRIV_V2: Final = 1 << 28
PASSTHROUGH: Final = 1 << 37

# Kinds of requests, as in the same file.
FALLOCATE: Final = 43
LSEEK: Final = 46
COPY_FILE_RANGE: Final = 47

# It is better than its predecessor for a file system that only one kernel mounts: that kernel looks
# for capabilities of a file before its first write, and removes them itself.
ADDED: Final = HANDLE_KILLPRIV_V2
REMOVED: Final = HANDLE_KILLPRIV


def load(*, passthrough: bool = False) -> bool:
    """Let the mounts of this process have the capabilities; return whether that is possible.

    To be called before pyfuse3 is imported. With `passthrough` files may have backing files.
    """
    if (hook := _loaded()) is None:
        return False
    hook.change_init(ADDED | PASSTHROUGH if passthrough else ADDED, REMOVED)
    return True


def granted() -> int:
    """Return the flags of the last mount's INIT, 0 if they are not known."""
    hook = sys.modules.get(_MODULE)
    return 0 if hook is None else int(hook.granted_flags())


def device() -> int:
    """Return the descriptor of /dev/fuse of the last mount, -1 if it is not known."""
    hook = sys.modules.get(_MODULE)
    return -1 if hook is None else int(hook.session_device())


def carry(*opcodes: int) -> None:
    """Let requests of these kinds, which pyfuse3 has no handler for, come to that of attributes.

    Without the callbacks they do not come: the kernel gets ENOSYS, and sends no more of them.
    """
    if (hook := sys.modules.get(_MODULE)) is not None:
        hook.carry_requests(sum(1 << opcode for opcode in opcodes))


def take_carried() -> tuple[int, bytes] | None:
    """Return the opcode and the body of the request that a handler of attributes was called for.

    None if it is one for an attribute. The handler calls this before its first wait. Its result is
    the body of the reply, 64 bytes at most.
    """
    hook = sys.modules.get(_MODULE)
    return None if hook is None else hook.take_carried()


def back_next_open(handle: int, number: int) -> None:
    """Give the reply that opens a handle the backing file of that number.

    The reply has to be the next one: a handler calls this last, and returns without a wait.
    """
    sys.modules[_MODULE].back_next_open(handle, number)


def _loaded() -> ModuleType | None:
    """Load the callbacks for all objects of the process; None if they were not compiled."""
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_GLOBAL)
    try:
        return import_module(_MODULE)
    except ImportError:
        return None
    finally:
        sys.setdlopenflags(flags)
