# cython: language_level=3
"""What a caller names, made ready for the core: a strategy, a machine; and the memo that replays."""
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_GetPointer, PyCapsule_IsValid

from ..arm64.machine cimport machine
from .memo cimport memo, memo_init, regular_fn, replay_fn
from .seam cimport STRATEGY_LOOKUP, STRATEGY_PURE, step_fn, step_layout, strategy
from .strategies cimport find
from .window cimport python_step

from ptebatch.errors import StrategyError
from ptebatch.strategies import name_of, resolve
from .isa import REGULAR, REPLAY
from .window import Window


cdef class Strategy:
    """A strategy ready to run: a compiled row, or a Python step behind a window."""

    def __cinit__(self, given):
        cdef const strategy *row
        self.window = None
        if callable(given):
            # what resolve() makes of it, without a row: that takes longer than a call over one block
            self.name, step = name_of(given), given
            self.row.flags = STRATEGY_LOOKUP
        else:
            known = resolve(given)
            self.name, step = known.name, known.step
            self.row.flags = (STRATEGY_LOOKUP if known.lookup else 0) | (STRATEGY_PURE if known.pure else 0)
        if step is None:
            self.keep = self.name.encode()
            row = find(self.keep)
            if row == NULL:
                raise StrategyError(f"strategy {self.name!r} has no compiled step; register() one")
            self.row = row[0]
            return
        if callable(step):
            self.row.step = python_step
            self.window = Window(step)
            return
        if not PyCapsule_IsValid(step, b"ptebatch.step"):
            raise StrategyError(f"strategy {self.name!r} is not a step capsule; make it with strategy_capsule()")
        if PyCapsule_GetContext(step) != step_layout():
            raise StrategyError(f"strategy {self.name!r} was compiled against another ptebatch; rebuild its module with this one")
        self.row.step = <step_fn>PyCapsule_GetPointer(step, b"ptebatch.step")


cdef int fill_machine(machine *c, object m) except -1:
    """The core's numbers of a ptebatch.Machine; a number that it lacks is an error."""
    c[0] = m.numbers()
    return 0


cdef int make_memo(memo *m, unsigned int ptrs_per_pte) except -1:
    """A memo of one leaf table, with the replay loops for this CPU."""
    m.replay = <replay_fn>PyCapsule_GetPointer(REPLAY, b"ptebatch.replay")
    m.regular = <regular_fn>PyCapsule_GetPointer(REGULAR, b"ptebatch.regular")
    if memo_init(m, ptrs_per_pte):
        raise MemoryError("the memo of one leaf table did not fit in memory")
    return 0
