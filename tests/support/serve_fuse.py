"""Serving a file system of a test, in a process of its own."""

import contextlib
import sys
from collections.abc import Callable

import pyfuse3
import trio


def serve(
    operations: pyfuse3.Operations,
    mount_point: str,
    name: str,
    mounted: Callable[[], object] = lambda: None,
) -> None:
    """Serve a file system until it is unmounted; print "mounted" when it is.

    Args:
        operations: its handlers.
        mount_point: an empty folder.
        name: its source, in the table of mounts.
        mounted: called before that line is printed.
    """
    pyfuse3.init(operations, mount_point, {f"fsname={name}", "default_permissions"})
    mounted()
    sys.stdout.write("mounted\n")
    sys.stdout.flush()
    try:
        trio.run(pyfuse3.main)
    finally:
        with contextlib.suppress(OSError, RuntimeError):
            pyfuse3.close()
