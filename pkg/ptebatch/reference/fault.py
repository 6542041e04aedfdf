"""Accesses of a program: what the hardware does itself, and the faults.

Restates spec 8.1, 8.3 and 8.9. Kernel counterparts: arch/arm64/mm/fault.c,
mm/memory.c (handle_mm_fault and below), mm/huge_memory.c, mm/filemap.c.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import bits as b
from ..errors import LayoutError
from . import pte as p
from .filemap import Inode, around
from .huge_memory import as_pte, huge_folio, mk_pmd, split_huge_pmd
from .mmu import Folio
from .vma import STACK_GUARD_GAP, VM_UFFD, RefVma

if TYPE_CHECKING:
    from .live import LiveMM

#: retries after which an access is a mistake of the model
_TRIES = 8


class Signal(Exception):
    """The access ends with a signal."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def access(mm: LiveMM, addr: int, *, write: bool) -> None:
    """Read or write a byte at an address.

    Raises
    ------
    Signal
        SIGSEGV or SIGBUS; nothing is changed by what raised it, but that a stack may have grown.
    """
    addr -= addr % mm.page_size
    for _ in range(_TRIES):
        if walk(mm, addr, write=write):
            return
        mm.count("faults")
        handle_mm_fault(mm, addr, write=write)
    raise AssertionError(f"access to {addr:#x} does not come to an end")


# ---- the hardware ----


def walk(mm: LiveMM, addr: int, *, write: bool) -> bool:
    """A translation table walk with the entry's permission; A/D are set by CPUs that do so. False: a fault."""
    first = mm.table_start(addr)
    huge = first in mm.pmds
    word = mm.pmds[first] if huge else mm.ptes.get(addr, 0)
    if not p.pte_valid(word) or not word & b.PTE_USER:
        return False
    new = word
    if write and p.pte_rdonly(word):
        if not (mm.machine.hafdbs and p.pte_write(word)):
            return False
        new &= ~b.PTE_RDONLY
    if not p.pte_young(word):
        if not mm.machine.hafdbs:
            return False
        new |= b.PTE_AF
    if huge:
        mm.pmds[first] = new
    else:
        mm.ptes[addr] = new
    return True


# ---- handle_mm_fault() ----


def handle_mm_fault(mm: LiveMM, addr: int, *, write: bool) -> None:
    """One fault: afterwards the access is tried again.

    Raises
    ------
    Signal
    """
    vma = mm.vma_at(addr) or expand_stack(mm, addr)
    wanted = b.VM_WRITE if write else b.VM_READ | b.VM_WRITE
    if vma is None or not vma.flags & wanted:
        raise Signal(signal.SIGSEGV)
    first = mm.table_start(addr)
    if first in mm.pmds:
        if _huge(mm, vma, first, write=write):
            return
        split_huge_pmd(mm, first)
    elif not mm.has_table(addr) and _huge_fits(mm, vma, first):
        vma = anon_vma_prepare(mm, vma)
        if _huge_new(mm, vma, first, write=write):
            return
    mm.alloc_table(addr)
    word = mm.ptep_get(addr)
    if p.pte_none(word):
        if vma.anonymous:
            _anonymous(mm, vma, addr, write=write)
        else:
            _file(mm, vma, addr, write=write)
    elif not p.pte_present(word):
        _softleaf(word, addr)
    elif p.pte_protnone(word):
        raise _numa_hint(addr)
    elif write and not p.pte_write(word):
        _wp_page(mm, vma, addr, word)
    else:
        word = p.pte_mkyoung(word)
        _set_access_flags(mm, addr, p.pte_mkdirty(word) if write else word, write=write)


def _numa_hint(addr: int) -> LayoutError:
    return LayoutError(f"the entry at {addr:#x} is a NUMA hint, whose fault is not modelled; change its protection instead")


def _softleaf(word: int, addr: int) -> None:
    marker = p.pte_marker(word)
    if marker & b.PTE_MARKER_GUARD:
        raise Signal(signal.SIGSEGV)
    if marker & b.PTE_MARKER_POISONED:
        raise Signal(signal.SIGBUS)
    raise LayoutError(f"the entry at {addr:#x}, {word:#x}, is neither none nor present, and its fault is not modelled; unmap it")


def _set_access_flags(mm: LiveMM, addr: int, entry: int, *, write: bool) -> None:
    """ptep_set_access_flags() and the flush that follows it where permissions grew.

    An entry of a folded block whose writability stays changes with all of the block, and so does the flush.
    """
    word = mm.ptes[addr]
    whole = mm.machine.contpte and p.pte_valid_cont(word) and p.pte_write(word) == p.pte_write(entry)
    if not mm.ptep_set_access_flags(addr, entry) or not write:
        return
    first, nr = (mm.block_start(addr), mm.machine.cont_ptes) if whole else (addr, 1)
    if mm.machine.wp_flush_local:
        mm.flush_local(first, nr)
    else:
        mm.flush_range(first, first + nr * mm.page_size)


# ---- anonymous memory ----


def expand_stack(mm: LiveMM, addr: int) -> RefVma | None:
    """expand_downwards(): the VMA above grows down to the page, if it is one that does, and may (mm/vma.c)."""
    above = next((vma for vma in mm.vma_list.vmas if vma.start > addr), None)
    if above is None or not above.flags & b.VM_GROWSDOWN:
        return None
    below = next((vma for vma in reversed(mm.vma_list.vmas) if vma.end <= addr), None)
    if below is not None and below.accessible and not below.flags & b.VM_GROWSDOWN:
        gap = addr - below.end
        if gap < STACK_GUARD_GAP * mm.page_size:
            return None
    above = anon_vma_prepare(mm, above)
    grow = (above.start - addr) // mm.page_size
    if grow > above.pgoff or above.end - addr > mm.stack_limit:
        return None
    return mm.vma_list.put(above, replace(above, start=addr, pgoff=above.pgoff - grow))


def anon_vma_prepare(mm: LiveMM, vma: RefVma) -> RefVma:
    """The VMA has an anon_vma from now on: that of a neighbour it could merge with, or a new one (mm/rmap.c)."""
    if vma.anon_vma:
        return vma
    near = [other for other in mm.vma_list.vmas if other.end == vma.start or vma.end == other.start]
    # the one behind is asked first
    for other in sorted(near, key=lambda each: -each.start):
        ordered = sorted((vma, other), key=lambda each: each.start)
        if other.anon_vma and not other.fork_child and mm.vma_list.anon_vma_compatible(*ordered):
            return mm.vma_list.put(vma, replace(vma, anon_vma=other.anon_vma, chain=other.chain))
    number = mm.frames.new_anon_vma()
    return mm.vma_list.put(vma, replace(vma, anon_vma=number, chain=(number,)))


def _anonymous(mm: LiveMM, vma: RefVma, addr: int, *, write: bool) -> None:
    """do_anonymous_page()."""
    if not write:
        mm.set_ptes(addr, mm.zero_pte(vma.page_prot))
        return
    vma = anon_vma_prepare(mm, vma)
    folio, first = _alloc_anon_folio(mm, vma, addr)
    map_anon_folio(mm, vma, first, folio)


def _alloc_anon_folio(mm: LiveMM, vma: RefVma, addr: int) -> tuple[Folio, int]:
    """alloc_anon_folio(): the largest size that may be, fits the VMA and finds nothing mapped; where it begins."""
    page = mm.page_size
    orders = () if vma.flags & VM_UFFD else mm.thp.of(vma.flags)
    for order in sorted(orders, reverse=True):
        size = page << order
        first = addr // size * size
        if not 2 <= order < mm.machine.pmd_order or first < vma.start or first + size > vma.end:
            continue
        if any(not p.pte_none(mm.ptes[first + i * page]) for i in range(1 << order)):
            continue
        folio = mm.frames.alloc(order)
        if folio is not None:
            return folio, first
    return _alloc_page(mm), addr


def _alloc_page(mm: LiveMM) -> Folio:
    folio = mm.frames.alloc(0)
    if folio is None:
        raise MemoryError("no frame is free; give the machine more memory")
    return folio


def map_anon_folio(mm: LiveMM, vma: RefVma, addr: int, folio: Folio) -> None:
    """Map a new folio: exclusive, young, and where the VMA may be written, dirty and writable."""
    mm.frames.get(folio, folio.nr - 1)
    _map_new(mm, folio)
    mm.set_ptes(addr, _writable(mm, vma, folio.head), folio.nr)


def _map_new(mm: LiveMM, folio: Folio) -> None:
    mm.frames.map_pages(folio, folio.head, folio.nr, mm.mm_id)
    mm.anon_exclusive.update(range(folio.head, folio.head + folio.nr))


def _writable(mm: LiveMM, vma: RefVma, pfn: int) -> int:
    word = p.pfn_pte(mm.page_shift, pfn, vma.page_prot)
    if vma.flags & b.VM_WRITE:
        word = p.pte_mkwrite(p.pte_mkdirty(word), always=mm.machine.mkwrite_always)
    return word


def _maybe_mkwrite(mm: LiveMM, vma: RefVma, word: int) -> int:
    """maybe_mkwrite(): writable where the VMA is."""
    return p.pte_mkwrite(word, always=mm.machine.mkwrite_always) if vma.flags & b.VM_WRITE else word


def _huge_fits(mm: LiveMM, vma: RefVma, first: int) -> bool:
    allowed = mm.machine.pmd_order in mm.thp.of(vma.flags)
    return vma.anonymous and allowed and vma.start <= first and first + mm.pmd_size <= vma.end


def _huge_new(mm: LiveMM, vma: RefVma, first: int, *, write: bool) -> bool:
    """do_huge_pmd_anonymous_page(); False: no such folio is free."""
    if not write and mm.thp.use_zero_page:
        zero = mm.frames.huge_zero(mm.machine.pmd_order)
        if zero is None:
            return False
        mm.alloc_above(first)
        word = mk_pmd(p.pfn_pte(mm.page_shift, zero, vma.page_prot))
        mm.pmds[first] = p.pte_mkspecial(word) if mm.machine.huge_zero_special else word
        return True
    folio = mm.frames.alloc(mm.machine.pmd_order)
    if folio is None:
        return False
    mm.alloc_above(first)
    map_anon_folio_pmd(mm, vma, first, folio)
    return True


def map_anon_folio_pmd(mm: LiveMM, vma: RefVma, first: int, folio: Folio) -> None:
    """Map a new folio by one PMD entry, as `map_anon_folio` does by leaf entries."""
    mm.frames.map_entire(folio, mm.mm_id)
    mm.anon_exclusive.add(folio.head)
    mm.pmds[first] = mk_pmd(_writable(mm, vma, folio.head))


def _huge(mm: LiveMM, vma: RefVma, first: int, *, write: bool) -> bool:
    """A fault on a PMD entry that maps a folio; False: it has to be split."""
    word = as_pte(mm.pmds[first])
    if p.pte_protnone(word):
        raise _numa_hint(first)
    folio = huge_folio(mm, word)
    if write and folio is None:
        return _huge_zero_write(mm, vma, first)
    if write and folio is not None and not p.pte_write(word):
        if folio.head not in mm.anon_exclusive:
            if mm.frames.use(folio).refs != 1:
                return False
            mm.anon_exclusive.add(folio.head)
        mm.count("wp_page_reuse")
        word = _maybe_mkwrite(mm, vma, word)
    word = p.pte_mkyoung(word)
    mm.pmds[first] = mk_pmd(p.pte_mkdirty(word) if write else word)
    if write and mm.machine.wp_flush_by_size:
        mm.flush_local(first, mm.machine.ptrs_per_pte, stride=mm.machine.ptrs_per_pte)
    elif write and mm.machine.wp_flush_local:
        mm.flush_local(first)
    elif write:
        mm.flush_page(first)
    return True


def _huge_zero_write(mm: LiveMM, vma: RefVma, first: int) -> bool:
    """do_huge_zero_wp_pmd(): a folio takes its place; before 6.13, or where there is none, it is split."""
    folio = mm.frames.alloc(mm.machine.pmd_order) if mm.machine.huge_zero_wp else None
    if folio is None:
        return False
    mm.flush_pmd(first)
    map_anon_folio_pmd(mm, vma, first, folio)
    return True


# ---- write-protected entries ----


def _wp_page(mm: LiveMM, vma: RefVma, addr: int, word: int) -> None:
    """do_wp_page(): reuse the page, or copy it."""
    if p.pte_uffd(word) and vma.flags & b.VM_UFFD_WP:
        raise LayoutError(f"the write at {addr:#x} waits for a userfaultfd, which nobody reads here; resolve it first")
    folio = mm.vm_normal_page(word)
    if vma.flags & b.VM_SHARED:
        _reuse(mm, vma, addr, word)
        return
    pfn = p.pte_pfn(mm.page_shift, word)
    if folio is not None and folio.anon and (pfn in mm.anon_exclusive or can_reuse(mm, folio)):
        mm.anon_exclusive.add(pfn)
        _reuse(mm, vma, addr, word)
        return
    _copy(mm, anon_vma_prepare(mm, vma), addr, folio, pfn)


def can_reuse(mm: LiveMM, folio: Folio) -> bool:
    """wp_can_reuse_anon_folio(): nobody else has the folio, whose page lost its exclusivity."""
    use = mm.frames.use(folio)
    if not folio.large:
        return use.refs == 1
    if not mm.machine.wp_reuse_large:
        return False
    # a folio with one page left is copied on purpose, so that the rest of it becomes free
    mapcount = mm.frames.mapcount(folio)
    return mapcount > 1 and not use.shared and mapcount == use.refs


def _reuse(mm: LiveMM, vma: RefVma, addr: int, word: int) -> None:
    mm.count("wp_page_reuse")
    entry = _maybe_mkwrite(mm, vma, p.pte_mkdirty(p.pte_mkyoung(word)))
    _set_access_flags(mm, addr, entry, write=True)


def _copy(mm: LiveMM, vma: RefVma, addr: int, folio: Folio | None, pfn: int) -> None:
    """wp_page_copy(): a page of its own in the place of a shared one, or of the zero page.

    ====  RO,c RO,c RO,c RO,c | ->  RO RW,d RO RO |
    """
    mm.count("wp_page_copy")
    new = _alloc_page(mm)
    old = mm.get_and_clear_full_ptes(addr, 1)
    if p.pte_valid(old):
        mm.flush_page(addr)
    if folio is not None:
        mm.frames.copy_page(new.head, pfn)
    _map_new(mm, new)
    mm.set_ptes(addr, _writable(mm, vma, new.head))
    if folio is not None:
        mm.frames.unmap_pages(folio, pfn, 1, mm.mm_id)
        mm.frames.put(folio)


# ---- files ----


def _file(mm: LiveMM, vma: RefVma, addr: int, *, write: bool) -> None:
    """do_fault()."""
    inode = mm.inode_of(vma)
    index = vma.pgoff + (addr - vma.start) // mm.page_size
    if inode.size is not None and index >= inode.size:
        raise Signal(signal.SIGBUS)
    if not write and _around(mm, vma, inode, addr):
        return
    folio = inode.folio_at(index) or inode.allocate(index, inode.orders)
    if write and not vma.flags & b.VM_SHARED:
        vma = anon_vma_prepare(mm, vma)
        new = _alloc_page(mm)
        mm.frames.copy_page(new.head, inode.pages[index])
        _map_new(mm, new)
        mm.set_ptes(addr, _writable(mm, vma, new.head))
        return
    low, nr = _whole(mm, vma, inode, folio, addr, index)
    _set_pte_range(mm, vma, inode, folio, low, nr, addr, write=write)
    if write:
        inode.dirty.add(folio.head)


def _whole(mm: LiveMM, vma: RefVma, inode: Inode, folio: Folio, addr: int, index: int) -> tuple[int, int]:
    """finish_fault(): all of a large folio is mapped if it fits the VMA and the table and nothing is mapped there."""
    page = mm.page_size
    low = addr - (inode.pages[index] - folio.head) * page
    high = low + folio.nr * page
    table = mm.table_start(addr)
    if low < max(vma.start, table) or high > min(vma.end, table + mm.pmd_size) or vma.flags & b.VM_UFFD_WP:
        return addr, 1
    if any(mm.ptes[at] for at in range(low, high, page)):
        return addr, 1
    return low, folio.nr


def _around(mm: LiveMM, vma: RefVma, inode: Inode, addr: int) -> bool:
    """filemap_map_pages(): what is cached around a read fault is mapped, too; whether `addr` was among it."""
    page = mm.page_size
    low, high = around(mm, addr, vma.start, vma.end)
    at = low
    while at < high:
        index = vma.pgoff + (at - vma.start) // page
        folio = inode.folio_at(index)
        if folio is None or mm.ptes[at]:
            at += page
            continue
        nr = 1
        while at + nr * page < high and inode.folio_at(index + nr) is folio and not mm.ptes[at + nr * page]:
            nr += 1
        _set_pte_range(mm, vma, inode, folio, at, nr, addr, write=False)
        at += nr * page
    return bool(mm.ptes[addr])


def _set_pte_range(mm: LiveMM, vma: RefVma, inode: Inode, folio: Folio, low: int, nr: int, addr: int, *, write: bool) -> None:
    """set_pte_range(): nr pages of a file's folio from `low` on; old where nobody asked for them and CPUs set AF."""
    index = vma.pgoff + (low - vma.start) // mm.page_size
    pfn = inode.pages[index]
    word = p.pfn_pte(mm.page_shift, pfn, vma.page_prot)
    asked = low <= addr < low + nr * mm.page_size
    if not asked and mm.machine.hafdbs:
        word = p.pte_mkold(word)
    if write:
        word = _writable(mm, vma, pfn)
    elif p.pte_write(word) and folio.head in inode.dirty and mm.machine.map_dirty:
        word = p.pte_mkdirty(word)
    mm.frames.get(folio, nr)
    mm.frames.map_pages(folio, pfn, nr, mm.mm_id)
    mm.set_ptes(low, word, nr)
