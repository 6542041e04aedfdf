# cython: language_level=3
"""`Exclusive`: what runs one call at a time. Base of `MM` and of the checker."""
from ptebatch.errors import PtebatchError

# not a flag that is tested and then set: without a GIL two threads could pass the test
cdef extern from *:
    """
    #define pb_try_lock(p) (!__atomic_exchange_n(p, 1, __ATOMIC_ACQUIRE))
    #define pb_unlock(p) __atomic_store_n(p, 0, __ATOMIC_RELEASE)
    """
    bint pb_try_lock(int *p) noexcept nogil
    void pb_unlock(int *p) noexcept nogil


cdef class Exclusive:
    """Runs one call at a time; another one meanwhile is refused with `PtebatchError`."""

    cdef int take(self) except -1:
        if not pb_try_lock(&self.busy):
            name = type(self).__name__
            how = f"{name}.copy()" if hasattr(self, "copy") else "make another"
            raise PtebatchError(f"this {name} is in use by a call that still runs, in another thread or around a strategy's "
                                f"step; give each thread its own ({how})")
        return 0

    cdef void drop(self) noexcept:
        pb_unlock(&self.busy)


cdef class Held:
    """It is taken while the block runs."""

    def __cinit__(self, Exclusive what):
        self.what = what

    def __enter__(self):
        self.what.take()

    def __exit__(self, *exc):
        self.what.drop()
