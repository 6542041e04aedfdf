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
VAE1IS = "VAE1IS"
RVAE1IS = "RVAE1IS"
ASIDE1IS = "ASIDE1IS"
DSB_ISHST = "DSB ISHST"
DSB_ISH = "DSB ISH"
DSB_NSHST = "DSB NSHST"
DSB_NSH = "DSB NSH"


def range_ops(machine: Machine, start: int, pages: int, *, tlb_range: bool, leaf: bool = True, stride: int = 1) -> list[Op]:
    """TLBI instructions of __flush_tlb_range_op(), before KPTI doubles them.

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
    leaf : bool
        Only what is cached of leaf entries; else of the tables above them, too.
    stride : int
        Pages that one entry maps: 1, or those of a PMD.
    """
    single, several = (VALE1IS, RVALE1IS) if leaf else (VAE1IS, RVAE1IS)
    ops: list[Op] = []
    cur, left, scale = start, pages, 3
    while left > 0:
        misaligned = machine.lpa2 and cur % 0x10000 != 0
        if not tlb_range or left == 1 or misaligned:
            ops.append((single, cur, 1))
            cur += stride * machine.page_size
            left -= stride
            continue
        unit = 1 << (5 * scale + 1)
        nr = left // unit * unit
        if nr:
            ops.append((several, cur, nr))
            cur += nr * machine.page_size
            left -= nr
        scale -= 1
    return ops


def flush_sequence(machine: Machine, start: int, pages: int, *, leaf: bool = True, stride: int = 1) -> list[Op]:
    """Every TLBI and DSB of one flush of a range of this process, in order; `leaf`, `stride` as in `range_ops`."""
    # A flush by PMD strides takes in whole ones: 2M are asked for by any page of them.
    low = start // (stride * machine.page_size) * stride * machine.page_size
    pages += (start - low) // machine.page_size
    start, pages = low, -(-pages // stride) * stride
    if machine.tlb_range:
        whole_asid = pages > 1 << 21
    else:
        whole_asid = pages >= machine.ptrs_per_pte * stride
    if whole_asid:
        return flush_mm_sequence(machine, ranged=True)
    return _waited_for(machine, range_ops(machine, start, pages, tlb_range=machine.tlb_range, leaf=leaf, stride=stride))


def flush_mm_sequence(machine: Machine, *, ranged: bool = False) -> list[Op]:
    """flush_tlb_mm(): the whole address space; `ranged`: a range flush that became one."""
    sequence = _waited_for(machine, [(ASIDE1IS, 0, 0)])
    if ranged and machine.asid_extra_dsb:
        sequence.append((DSB_ISH, 0, 0))
    return sequence


def flush_nosync_sequence(machine: Machine, start: int, pages: int) -> list[Op]:
    """A flush that somebody else waits for later: what a deferred flush issues at once."""
    return _waited_for(machine, range_ops(machine, start, pages, tlb_range=machine.tlb_range))[:-1]


def flush_wait_sequence(machine: Machine) -> list[Op]:
    """arch_tlbbatch_flush(): wait for what was issued."""
    return _waited_for(machine, [])[1:]


def flush_local_sequence(machine: Machine, addr: int, pages: int = 1, *, stride: int = 1) -> list[Op]:
    """local_flush_tlb_page() and its like: some pages, on this CPU only."""
    ops = range_ops(machine, addr, pages, tlb_range=machine.tlb_range, stride=stride)
    local = [(kind.removesuffix("IS"), at, nr) for kind, at, nr in ops for _ in range(2 if machine.kpti else 1)]
    return [(DSB_NSHST, 0, 0), *local, (DSB_NSH, 0, 0)]


def _waited_for(machine: Machine, ops: list[Op]) -> list[Op]:
    """TLBIs between their barriers, doubled and repeated where the machine must."""
    if machine.kpti:
        ops = [op for op in ops for _ in range(2)]
    sequence: list[Op] = [(DSB_ISHST, 0, 0), *ops, (DSB_ISH, 0, 0)]
    if machine.repeat_tlbi:
        sequence += [(VALE1IS, 0, 1), (DSB_ISH, 0, 0)]
    return sequence


@dataclass(slots=True)
class MmuGather:
    """The address range that a walk leaves to be flushed; no start: nothing yet.

    Attributes
    ----------
    start, end : int
        Addresses.
    ptes : bool
        Some leaf entry is in it; else only entries of PMDs, which are flushed by their stride.
    freed : bool
        Tables were freed: what is cached of them goes, too.
    """

    start: int | None = None
    end: int = 0
    ptes: bool = False
    freed: bool = False

    def flush_pte_range(self, addr: int, size: int) -> None:
        """tlb_flush_pte_range(): widen the range; holes between pieces are included."""
        self.flush_pmd_range(addr, size)
        self.ptes = True

    def flush_pmd_range(self, addr: int, size: int) -> None:
        """tlb_flush_pmd_range(): the same for an entry of a PMD."""
        self.start = addr if self.start is None else min(self.start, addr)
        self.end = max(self.end, addr + size)

    def free_table(self, addr: int, size: int) -> None:
        """pte_free_tlb(): the table of `addr` is given back."""
        self.flush_pmd_range(addr, size)
        self.freed = True

    def take(self) -> tuple[int, int] | None:
        """The gathered range, None if nothing was gathered; the gather is empty again."""
        if self.start is None:
            return None
        taken = (self.start, self.end)
        self.start, self.end = None, 0
        self.ptes = self.freed = False
        return taken
