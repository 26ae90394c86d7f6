"""Locks that signal handlers and forked children need, too."""

import os
import threading

from modelfs.fork_lock import fork_lock

PATIENCE = 30.0  # seconds


def test_a_lock_is_reentrant() -> None:
    """A signal handler may come on the thread that holds it."""
    lock = fork_lock()
    with lock, lock:
        pass


def test_a_lock_of_another_thread_is_free_in_a_child() -> None:
    """That thread does not exist there; the lock of the forking thread stays its own."""
    other, own, inside, go_on = fork_lock(), fork_lock(), threading.Event(), threading.Event()

    def hold() -> None:
        with other:
            inside.set()
            assert go_on.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(PATIENCE)
    with own:
        pid = os.fork()
        if not pid:
            good = False
            try:
                with own:
                    good = other.acquire(timeout=1)
                own.release()
            finally:
                os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not other.acquire(blocking=False)
    go_on.set()
    thread.join()
