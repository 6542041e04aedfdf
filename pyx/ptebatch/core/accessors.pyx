# cython: language_level=3
"""The PTE accessors on Python integers, for tests and for the curious."""
from libc.stdint cimport uint32_t, uint64_t

from . cimport pte as p
from .pte cimport pte_t

PREDICATES = (
    "none", "present", "valid", "present_invalid", "protnone", "young", "dirty", "hw_dirty", "sw_dirty", "write",
    "rdonly", "cont", "valid_cont", "special", "uffd", "user", "user_exec",
)


def predicates(pte_t pte):
    """All questions about one word at once.

    Returns
    -------
    dict of str to bool
        In the order of `PREDICATES` (spec 2.1).
    """
    return dict(zip(PREDICATES, map(bool, (
        p.pte_none(pte), p.pte_present(pte), p.pte_valid(pte), p.pte_present_invalid(pte), p.pte_protnone(pte),
        p.pte_young(pte), p.pte_dirty(pte), p.pte_hw_dirty(pte), p.pte_sw_dirty(pte), p.pte_write(pte),
        (pte & p.PTE_RDONLY) != 0, p.pte_cont(pte), p.pte_valid_cont(pte), p.pte_special(pte), p.pte_uffd(pte),
        (pte & p.PTE_USER) != 0, p.pte_user_exec(pte))), strict=True))


def pte_modify(pte_t pte, pte_t newprot):
    """pte_modify() (spec 2.3)."""
    return p.pte_modify(pte, newprot)


def pte_mkwrite(pte_t pte, bint always=False):
    """pte_mkwrite(); `always`: the rule of 6.16."""
    return p.pte_mkwrite(pte, always)


def pte_mkdirty(pte_t pte):
    """pte_mkdirty()."""
    return p.pte_mkdirty(pte)


def pte_mkclean(pte_t pte):
    """pte_mkclean()."""
    return p.pte_mkclean(pte)


def pte_wrprotect(pte_t pte):
    """pte_wrprotect()."""
    return p.pte_wrprotect(pte)


def pte_mkold(pte_t pte):
    """pte_mkold()."""
    return p.pte_mkold(pte)


def pte_mkyoung(pte_t pte):
    """pte_mkyoung()."""
    return p.pte_mkyoung(pte)


def pte_mkcont(pte_t pte):
    """pte_mkcont()."""
    return p.pte_mkcont(pte)


def pte_mknoncont(pte_t pte):
    """pte_mknoncont()."""
    return p.pte_mknoncont(pte)


def pte_mkuffd(pte_t pte):
    """pte_mkuffd(): sets UFFD and write-protects."""
    return p.pte_mkuffd(pte)


def pte_clear_uffd(pte_t pte):
    """pte_clear_uffd()."""
    return p.pte_clear_uffd(pte)


def pte_advance_pfn(pte_t pte, uint64_t nr, uint32_t page_shift=12):
    """pte_advance_pfn(): the frame nr pages further, flags as they are."""
    return p.pte_advance_pfn(pte, nr, page_shift)


def pte_pgprot(pte_t pte, uint32_t page_shift=12):
    """pte_pgprot(): all bits but the address."""
    return p.pte_pgprot(pte, page_shift)


def pte_pfn(pte_t pte, uint32_t page_shift=12):
    """pte_pfn()."""
    return p.pte_pfn(pte, page_shift)


def pte_batch_clear_ignored(pte_t pte, int flags):
    """Normalisation of folio_pte_batch() (spec 5.2); FPB flags 1 dirty, 2 soft-dirty, 4 write."""
    return p.pte_batch_clear_ignored(pte, flags)


def pte_needs_flush(pte_t old, pte_t new, bint own_rule=True):
    """pte_needs_flush(); without arm64's own rule always true (spec 2.4)."""
    return bool(p.pte_needs_flush(old, new, own_rule))


def pte_swp_mkuffd(pte_t pte):
    """pte_swp_mkuffd()."""
    return p.pte_swp_mkuffd(pte)


def pte_swp_clear_uffd(pte_t pte):
    """pte_swp_clear_uffd()."""
    return p.pte_swp_clear_uffd(pte)


def constants():
    """The bits as the core has them.

    Returns
    -------
    dict of str to int
    """
    return {
        "PTE_VALID": p.PTE_VALID, "PTE_USER": p.PTE_USER, "PTE_RDONLY": p.PTE_RDONLY, "PTE_SHARED": p.PTE_SHARED,
        "PTE_AF": p.PTE_AF, "PTE_NG": p.PTE_NG, "PTE_GP": p.PTE_GP, "PTE_WRITE": p.PTE_WRITE, "PTE_CONT": p.PTE_CONT,
        "PTE_PXN": p.PTE_PXN, "PTE_UXN": p.PTE_UXN, "PTE_DIRTY": p.PTE_DIRTY, "PTE_SPECIAL": p.PTE_SPECIAL,
        "PTE_UFFD": p.PTE_UFFD, "PTE_SWBITS_MASK": p.PTE_SWBITS, "PTE_CHG_MASK": p.PTE_CHG,
        "PTE_PO_IDX_MASK": p.PTE_PO_IDX, "PTE_ATTRINDX_MASK": p.PTE_ATTRINDX,
        "PTE_SWP_EXCLUSIVE": p.PTE_SWP_EXCLUSIVE, "PTE_SWP_UFFD": p.PTE_SWP_UFFD,
    }
