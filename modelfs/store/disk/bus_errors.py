"""A file that the handler of SIGBUS closes: compiled where it could be, else there is no handler.

Example. A thread writes to a mapped page of a file on a btrfs whose quota is used up, and the
kernel sends SIGBUS. The handler closes the armed file, which had 32 MiB. It returns, the kernel
repeats the write, and the thread goes on. For a second such signal the handler has nothing to
close: it waits for 1 ms and returns. If no page gets room for 5 s, the signal ends the process.
"""

try:
    from modelfs.store.disk._bus_errors import arm, disarm, is_armed
except ImportError:

    def arm(fd: int) -> int:
        """Keep a duplicate of a file for the handler; return its ticket, 0 if there can be none."""
        return 0

    def is_armed(of: int) -> bool:
        """Whether the file of a ticket is still open."""
        return False

    def disarm(of: int) -> bool:
        """Close the file of a ticket; return whether it was open."""
        return False


__all__ = ["arm", "disarm", "is_armed"]
