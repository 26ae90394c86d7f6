# cython: language_level=3
"""The handler of SIGBUS: it closes an armed file, and lets the instruction be repeated.

A store to a mapped page raises SIGBUS if the disk has no room for the page. `arm` keeps a duplicate
of a file without a name, and the handler closes that. Its blocks are free then, and the kernel
repeats the instruction when the handler returns. If the signal comes again, other threads may be
in the same state, or another thread may have taken the room for a moment, or the page is bad for
another reason. So the handler waits and returns, and when signals have come for `PATIENCE` without
a pause of `CALM` or a file to close, it restores the handler that was there before.

The handler closes nothing by number, since the number may be another file's by then: the number of
the duplicate is kept as long as the process lives, and stands for /dev/null while nothing is armed.
It calls functions only that are safe in a handler: signal-safety(7).
"""

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <signal.h>
    #include <time.h>
    #include <unistd.h>

    /* In milliseconds. A btrfs without room commits, and then looks again: measured up to 220. */
    #define PATIENCE 5000
    #define CALM 500

    static int nothing = -1;  /* /dev/null */
    static int number = -1;   /* of the duplicate */
    static int ticket = 0;    /* of the armed file; 0: none, -1: it is being closed */
    static int last = 0;      /* ticket that was given out */
    /* Milliseconds of the monotonic clock. */
    static long long began_at = 0;  /* the first signal that was followed by others */
    static long long last_at = 0;   /* the last signal */
    static struct sigaction before;

    static int let_go(int of)
    {
        if (of <= 0 || !__atomic_compare_exchange_n(
                &ticket, &of, -1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return 0;
        dup3(nothing, number, O_CLOEXEC);
        __atomic_store_n(&ticket, 0, __ATOMIC_SEQ_CST);
        return 1;
    }

    static int is_patient(void)
    {
        struct timespec now;
        long long at;

        clock_gettime(CLOCK_MONOTONIC, &now);
        at = now.tv_sec * 1000LL + now.tv_nsec / 1000000;
        if (at - __atomic_exchange_n(&last_at, at, __ATOMIC_SEQ_CST) > CALM)
            __atomic_store_n(&began_at, at, __ATOMIC_SEQ_CST);
        return at - __atomic_load_n(&began_at, __ATOMIC_SEQ_CST) < PATIENCE;
    }

    static void on_bus_error(int signal_number, siginfo_t *info, void *context)
    {
        int error = errno;
        struct timespec pause = {0, 1000000};

        /* A code above 0 is the kernel's, of an instruction. */
        if (info->si_code <= 0 || !is_patient()) {
            sigaction(SIGBUS, &before, NULL);
            if (info->si_code <= 0)
                raise(signal_number);
        } else if (let_go(__atomic_load_n(&ticket, __ATOMIC_SEQ_CST))) {
            __atomic_store_n(&last_at, 0, __ATOMIC_SEQ_CST);
        } else {
            nanosleep(&pause, NULL);
        }
        errno = error;
    }

    static int arm_file(int fd)
    {
        struct sigaction action, current;

        if (__atomic_load_n(&ticket, __ATOMIC_SEQ_CST))
            return 0;
        if (nothing < 0)
            nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (nothing < 0)
            return 0;
        if (number < 0)
            number = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        else if (dup3(fd, number, O_CLOEXEC) < 0)
            return 0;
        if (number < 0)
            return 0;
        if (sigaction(SIGBUS, NULL, &current))
            return 0;
        if (!(current.sa_flags & SA_SIGINFO) || current.sa_sigaction != on_bus_error) {
            before = current;
            action.sa_sigaction = on_bus_error;
            action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
            sigemptyset(&action.sa_mask);
            if (sigaction(SIGBUS, &action, NULL)) {
                dup3(nothing, number, O_CLOEXEC);
                return 0;
            }
        }
        last = last == 0x7fffffff ? 1 : last + 1;
        __atomic_store_n(&ticket, last, __ATOMIC_SEQ_CST);
        return last;
    }

    static int is_ticket(int of)
    {
        return of > 0 && __atomic_load_n(&ticket, __ATOMIC_SEQ_CST) == of;
    }
    """
    int arm_file(int fd)
    int let_go(int of)
    int is_ticket(int of)


def arm(int fd):
    """Arm a file, and return a ticket; 0 if another is armed. With Python's lock."""
    return arm_file(fd)


def is_armed(int of):
    """Whether the file of a ticket is armed, and so has not been closed."""
    return bool(is_ticket(of))


def disarm(int of):
    """Close the file of a ticket; return whether it was armed."""
    return bool(let_go(of))
