"""PTE words: what each accessor asks or changes, bit by bit.

Restates spec 1.6 and 2.1 to 2.4 for plain integers. Kernel counterpart:
arch/arm64/include/asm/pgtable.h. Nothing here touches a page table.
"""

from __future__ import annotations

from .. import bits as b
from ..machine import Machine

_U64 = (1 << 64) - 1


# Queries (spec 2.1)


def pte_none(pte: int) -> bool:
    """Nothing is mapped and nothing is remembered."""
    return pte == 0


def pte_valid(pte: int) -> bool:
    """The hardware walk succeeds."""
    return bool(pte & b.PTE_VALID)


def pte_present(pte: int) -> bool:
    """VALID, or invalid but with PRESENT_INVALID: PROT_NONE keeps its page (spec 1.6)."""
    return bool(pte & (b.PTE_VALID | b.PTE_PRESENT_INVALID))


def pte_softleaf(pte: int) -> bool:
    """Swap, migration, marker: neither none nor present."""
    return not pte_none(pte) and not pte_present(pte)


def pte_protnone(pte: int) -> bool:
    """PROT_NONE or NUMA hinting: present-invalid, no USER, no execution at EL0."""
    invalid = not pte_valid(pte) and bool(pte & b.PTE_PRESENT_INVALID)
    return invalid and not pte & b.PTE_USER and bool(pte & b.PTE_UXN)


def pte_young(pte: int) -> bool:
    """AF."""
    return bool(pte & b.PTE_AF)


def pte_write(pte: int) -> bool:
    """WRITE, whatever RDONLY says: a clean writable entry is writable."""
    return bool(pte & b.PTE_WRITE)


def pte_rdonly(pte: int) -> bool:
    """RDONLY."""
    return bool(pte & b.PTE_RDONLY)


def pte_hw_dirty(pte: int) -> bool:
    """WRITE without RDONLY."""
    return pte_write(pte) and not pte_rdonly(pte)


def pte_sw_dirty(pte: int) -> bool:
    """The software bit."""
    return bool(pte & b.PTE_DIRTY)


def pte_dirty(pte: int) -> bool:
    """Dirty in software or in hardware."""
    return pte_sw_dirty(pte) or pte_hw_dirty(pte)


def pte_user_exec(pte: int) -> bool:
    """EL0 may execute: UXN is clear."""
    return not pte & b.PTE_UXN


def pte_special(pte: int) -> bool:
    """There is no struct page to look at."""
    return bool(pte & b.PTE_SPECIAL)


def pte_cont(pte: int) -> bool:
    """CONT, whatever VALID says."""
    return bool(pte & b.PTE_CONT)


def pte_valid_cont(pte: int) -> bool:
    """The entry belongs to a folded contpte block."""
    return pte_valid(pte) and pte_cont(pte)


def pte_uffd(pte: int) -> bool:
    """userfaultfd tracks the entry."""
    return bool(pte & b.PTE_UFFD)


# Mutators (spec 2.2)


def pte_mkwrite(pte: int, always: bool = False) -> int:
    """Set WRITE; RDONLY goes if the entry is dirty, so a clean one becomes clean-writable.

    ``always`` is 6.16, whose pte_mkwrite() cleared RDONLY of clean entries too (spec 2.2, 10.1).
    """
    pte |= b.PTE_WRITE
    if always or pte_sw_dirty(pte):
        pte &= ~b.PTE_RDONLY
    return pte


def pte_mkdirty(pte: int) -> int:
    """Set the software bit; RDONLY goes if the entry is writable."""
    pte |= b.PTE_DIRTY
    if pte_write(pte):
        pte &= ~b.PTE_RDONLY
    return pte


def pte_mkclean(pte: int) -> int:
    """Forget both kinds of dirtiness, keep WRITE."""
    return (pte & ~b.PTE_DIRTY) | b.PTE_RDONLY


def pte_wrprotect(pte: int) -> int:
    """Take WRITE away; hardware dirtiness moves to the software bit first."""
    if pte_hw_dirty(pte):
        pte |= b.PTE_DIRTY
    return (pte & ~b.PTE_WRITE) | b.PTE_RDONLY


def pte_mkold(pte: int) -> int:
    """Clear AF."""
    return pte & ~b.PTE_AF


def pte_mkyoung(pte: int) -> int:
    """Set AF."""
    return pte | b.PTE_AF


def pte_mkcont(pte: int) -> int:
    """Set CONT."""
    return pte | b.PTE_CONT


def pte_mknoncont(pte: int) -> int:
    """Clear CONT."""
    return pte & ~b.PTE_CONT


def pte_mkspecial(pte: int) -> int:
    """Set SPECIAL."""
    return pte | b.PTE_SPECIAL


def pte_mkuffd(pte: int) -> int:
    """Let userfaultfd track the entry: it loses WRITE."""
    return pte_wrprotect(pte | b.PTE_UFFD)


def pte_clear_uffd(pte: int) -> int:
    """End the tracking; WRITE does not come back."""
    return pte & ~b.PTE_UFFD


def pte_modify(pte: int, newprot: int) -> int:
    """Give an entry another protection; pfn, AF, CONT, dirty, SPECIAL, UFFD, SH and bit 1 stay (spec 2.3)."""
    if pte_hw_dirty(pte):
        pte |= b.PTE_DIRTY
    pte = (pte & ~b.PTE_CHG_MASK) | (newprot & b.PTE_CHG_MASK)
    return pte_mkdirty(pte) if pte_sw_dirty(pte) else pte


def pte_needs_flush(machine: Machine, old: int, new: int) -> bool:
    """Whether mprotect must flush after this change (spec 2.4); before 6.19 always."""
    if not machine.needs_flush:
        return True
    if not pte_valid(old):
        return False
    return bool((old ^ new) & ~b.PTE_SWBITS_MASK)


# Frame numbers (spec 1.3, 48-bit PA)


def pte_pgprot(page_shift: int, pte: int) -> int:
    """Every bit that is not the address, CONT included.

    With LPA2 the SH bits hold address bits 51:50; frames below 2^50 bytes leave them clear.
    """
    low = (1 << page_shift) - 1
    high = _U64 >> b.PTE_ADDR_END << b.PTE_ADDR_END
    return pte & (high | low)


def pte_pfn(page_shift: int, pte: int) -> int:
    """Frame number of a present entry."""
    return (pte ^ pte_pgprot(page_shift, pte)) >> page_shift


def pfn_pte(page_shift: int, pfn: int, pgprot: int) -> int:
    """Put frame number and protection together."""
    return (pfn << page_shift) | pgprot


def pte_advance_pfn(page_shift: int, pte: int, nr: int) -> int:
    """The same entry for the page `nr` further on."""
    return pfn_pte(page_shift, pte_pfn(page_shift, pte) + nr, pte_pgprot(page_shift, pte))


# Entries that are not present (spec 1.6)


def swp_type(pte: int) -> int:
    """Type of a softleaf."""
    return (pte >> b.SWP_TYPE_SHIFT) & b.SWP_TYPE_MASK


def swp_offset(pte: int) -> int:
    """Offset of a softleaf: swap slot, marker bits, or pfn with A/D above it."""
    return (pte >> b.SWP_OFFSET_SHIFT) & b.SWP_OFFSET_MASK


def swp_entry(kind: int, offset: int) -> int:
    """Softleaf word of a type and an offset, without flags."""
    return (kind << b.SWP_TYPE_SHIFT) | (offset << b.SWP_OFFSET_SHIFT)


def make_pte_marker(marker: int) -> int:
    """Word of a marker of these PTE_MARKER_* bits."""
    return swp_entry(b.SWP_TYPE_MASK, marker)


def pte_marker(pte: int) -> int:
    """softleaf_to_marker(): the bits of a marker, for an entry that is not present; 0: it is none."""
    return swp_offset(pte) if swp_type(pte) == b.SWP_TYPE_MASK else 0


def softleaf_pfn(page_shift: int, pte: int) -> int:
    """Frame number in a migration or device entry, A/D bits above it dropped."""
    return swp_offset(pte) & ((1 << (48 - page_shift)) - 1)


# Batch comparison (spec 5.2)


def pte_batch_clear_ignored(pte: int, *, respect_write: bool, respect_dirty: bool = False) -> int:
    """What is left to compare when two entries are asked to belong to one batch."""
    if not respect_dirty:
        pte = pte_mkclean(pte)
    if not respect_write:
        pte = pte_wrprotect(pte)
    return pte_mkold(pte)
