"""One access to memory of this process, as a program makes it: the signal it ends with, the faults it takes."""

def access(addr: int, value: int = -1) -> tuple[int, int, int]:
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
