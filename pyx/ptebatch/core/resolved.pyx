# cython: language_level=3
"""What a caller names, made ready for the core: a strategy, a machine."""
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_GetPointer, PyCapsule_IsValid

from .machine cimport machine
from .strategies cimport find
from .strategy cimport STRATEGY_LOOKUP, step_fn, step_layout, strategy
from .window cimport python_step

from ptebatch.errors import StrategyError
from ptebatch.strategies import resolve
from .window import Window


cdef class Strategy:
    """A strategy ready to run: a compiled row, or a Python step behind a window."""

    def __cinit__(self, given):
        cdef const strategy *row
        self.name, kind, thing, lookup = resolve(given)
        self.window = None
        if kind == "compiled":
            self.keep = self.name.encode()
            row = find(self.keep)
            if row == NULL:
                raise StrategyError(f"strategy {self.name!r} has no compiled step")
            self.row = row[0]
            return
        self.row.flags = STRATEGY_LOOKUP if lookup else 0
        if kind == "capsule":
            if not PyCapsule_IsValid(thing, b"ptebatch.step"):
                raise StrategyError(f"strategy {self.name!r} is not a step capsule; make it with strategy_capsule()")
            if PyCapsule_GetContext(thing) != step_layout():
                raise StrategyError(f"strategy {self.name!r} was compiled against another ptebatch; "
                                    "rebuild its module with this one")
            self.row.step = <step_fn>PyCapsule_GetPointer(thing, b"ptebatch.step")
        else:
            self.row.step = python_step
            self.window = Window(thing)


cdef int fill_machine(machine *c, object m) except -1:
    """The core's numbers of a ptebatch.Machine."""
    c.page_shift = m.page_shift
    c.cont_ptes = m.cont_ptes
    c.ptrs_per_pte = m.ptrs_per_pte
    c.ptrs_shift = m.pmd_order
    c.va_bits = m.va_bits
    c.contpte = m.contpte
    c.tlb_range = m.tlb_range
    c.elides_bbm = m.elides_bbm
    c.lpa2 = m.lpa2
    c.kpti = m.kpti
    c.repeat_tlbi = m.repeat_tlbi
    c.gather_early_exit = m.gather_early_exit
    c.needs_flush = m.needs_flush
    c.paint_invalid = m.paint_invalid
    c.mkwrite_always = m.mkwrite_always
    c.guard_markers = m.guard_markers
    c.asid_extra_dsb = m.asid_extra_dsb
    c.epan = m.epan
    c.bti = m.bti
    c.mte = m.mte
    c.mdwe = m.mdwe
    c.swp_migration_read = m.swp_migration_read
    c.swp_device_write = m.swp_device_write
    c.swp_exclusive_write = m.swp_exclusive_write
    return 0
