"""TLB flushes: which instructions a range needs, and the mmu_gather.

Restates spec 6.8. Kernel counterparts: arch/arm64/include/asm/tlbflush.h,
include/asm-generic/tlb.h. An instruction is ``(kind, address, pages)`` with the
kinds of ``ptebatch.events``.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..machine import Machine

Op = tuple[str, int, int]

VALE1IS = "VALE1IS"
RVALE1IS = "RVALE1IS"
ASIDE1IS = "ASIDE1IS"
DSB_ISHST = "DSB ISHST"
DSB_ISH = "DSB ISH"


def range_ops(machine: Machine, start: int, pages: int, *, tlb_range: bool) -> list[Op]:
    """TLBI instructions of __flush_tlb_range_op() for leaf pages, before KPTI doubles them.

    Parameters
    ----------
    machine : Machine
        Page size, and LPA2 with its alignment rule.
    start : int
        Address, page aligned.
    pages : int
        Length.
    tlb_range : bool
        Whether FEAT_TLBIRANGE may be used.
    """
    ops: list[Op] = []
    cur, left, scale = start, pages, 3
    while left:
        misaligned = machine.lpa2 and cur % 0x10000 != 0
        if not tlb_range or left == 1 or misaligned:
            ops.append((VALE1IS, cur, 1))
            cur += machine.page_size
            left -= 1
            continue
        unit = 1 << (5 * scale + 1)
        nr = left // unit * unit
        if nr:
            ops.append((RVALE1IS, cur, nr))
            cur += nr * machine.page_size
            left -= nr
        scale -= 1
    return ops


def flush_sequence(machine: Machine, start: int, pages: int) -> list[Op]:
    """Every TLBI and DSB of one flush of a range of this process, in order."""
    if machine.tlb_range:
        whole_asid = pages > 1 << 21
    else:
        whole_asid = pages >= machine.ptrs_per_pte
    ops: list[Op]
    if whole_asid:
        ops = [(ASIDE1IS, 0, 0)]
    else:
        ops = range_ops(machine, start, pages, tlb_range=machine.tlb_range)
    if machine.kpti:
        ops = [op for op in ops for _ in range(2)]
    sequence: list[Op] = [(DSB_ISHST, 0, 0), *ops, (DSB_ISH, 0, 0)]
    if machine.repeat_tlbi:
        sequence += [(VALE1IS, 0, 1), (DSB_ISH, 0, 0)]
    if whole_asid and machine.asid_extra_dsb:
        sequence.append((DSB_ISH, 0, 0))
    return sequence


@dataclass(slots=True)
class MmuGather:
    """The address range that one VMA's walk leaves to be flushed; no start: nothing yet."""

    start: int | None = None
    end: int = 0

    def flush_pte_range(self, addr: int, size: int) -> None:
        """tlb_flush_pte_range(): widen the range; holes between pieces are included."""
        self.start = addr if self.start is None else min(self.start, addr)
        self.end = max(self.end, addr + size)

    def take(self) -> tuple[int, int] | None:
        """The gathered range, None if nothing was gathered; the gather is empty again."""
        if self.start is None:
            return None
        taken = (self.start, self.end)
        self.start, self.end = None, 0
        return taken
