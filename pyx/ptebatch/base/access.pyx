# cython: language_level=3
"""One access to memory of this process, as a program makes it: the signal it ends with, the faults it takes.

For runs of the model beside the running kernel; nothing of the model needs it.
"""

cdef extern from *:
    """
    #include <setjmp.h>
    #include <signal.h>
    #include <string.h>
    #include <sys/resource.h>

    /* a signal is delivered to the thread that made the access, and nothing else runs here */
    static sigjmp_buf pb_before;
    static volatile sig_atomic_t pb_signal;

    static void pb_caught(int number) {
        pb_signal = number;
        siglongjmp(pb_before, 1);
    }

    /* room below the stack pointer is written first: what the signal or a call needs of the
       stack is there, and takes no fault that would be counted */
    static __attribute__((noinline)) void pb_warm(void) {
        volatile char room[16384];
        for (size_t i = 0; i < sizeof(room); i += 1024)
            room[i] = 0;
    }

    static int pb_access(volatile unsigned char *at, int write, int *value, long *faults) {
        struct sigaction act, segv, bus;
        static struct rusage before, after;
        memset(&act, 0, sizeof(act));
        act.sa_handler = pb_caught;
        sigemptyset(&act.sa_mask);
        sigaction(SIGSEGV, &act, &segv);
        sigaction(SIGBUS, &act, &bus);
        pb_signal = 0;
        memset(&after, 0, sizeof(after));
        pb_warm();
        getrusage(RUSAGE_SELF, &before);
        if (!sigsetjmp(pb_before, 1)) {
            if (write)
                *at = (unsigned char)*value;
            else
                *value = *at;
        }
        getrusage(RUSAGE_SELF, &after);
        *faults = after.ru_minflt - before.ru_minflt;
        sigaction(SIGSEGV, &segv, NULL);
        sigaction(SIGBUS, &bus, NULL);
        return pb_signal;
    }
    """
    int pb_access(unsigned char *at, int write, int *value, long *faults) nogil


def access(unsigned long long addr, int value=-1):
    """Read a byte, or write `value` if it is one; any address may be given.

    Parameters
    ----------
    addr : int
    value : int
        0 to 255 is written; -1 reads.

    Returns
    -------
    signal, value, faults : int
        0 or SIGSEGV or SIGBUS; the byte; minor faults that the access took.

    Notes
    -----
    Not for several threads at once: signal handlers are the process's.
    """
    cdef int got = value, number
    cdef long faults = 0
    number = pb_access(<unsigned char *>addr, value >= 0, &got, &faults)
    return number, got, faults
