# cython: language_level=3
"""The PTE accessors on Python integers, for tests and for the curious."""
from libc.stdint cimport uint32_t

from ..base.args cimport number, truth
from . cimport pte as p
from .pte cimport pte_t

from ptebatch.errors import LayoutError

PREDICATES = (
    "none", "present", "valid", "present_invalid", "protnone", "young", "dirty", "hw_dirty", "sw_dirty", "write",
    "rdonly", "cont", "valid_cont", "special", "uffd", "user", "user_exec",
)


# one of arm64's granules: anything else would cut the address field elsewhere
cdef uint32_t shift_of(object page_shift) except 0:
    cdef uint32_t shift = number("page_shift", page_shift, 16)
    if shift not in (12, 14, 16):
        raise LayoutError(f"page_shift={shift} is no granule of arm64; give 12, 14 or 16")
    return shift


def predicates(pte):
    """All questions about one word at once.

    Parameters
    ----------
    pte : int
        A PTE word, 0 to 2**64 - 1. So are those of the other functions; anything
        else raises `LayoutError`.

    Returns
    -------
    dict of str to bool
        In the order of `PREDICATES` (spec 2.1).
    """
    cdef pte_t w = number("pte", pte)
    return dict(zip(PREDICATES, map(bool, (
        p.pte_none(w), p.pte_present(w), p.pte_valid(w), p.pte_present_invalid(w), p.pte_protnone(w),
        p.pte_young(w), p.pte_dirty(w), p.pte_hw_dirty(w), p.pte_sw_dirty(w), p.pte_write(w),
        (w & p.PTE_RDONLY) != 0, p.pte_cont(w), p.pte_valid_cont(w), p.pte_special(w), p.pte_uffd(w),
        (w & p.PTE_USER) != 0, p.pte_user_exec(w))), strict=True))


def pte_modify(pte, newprot):
    """pte_modify(): access and attribute bits from `newprot`, dirtiness kept (spec 2.3)."""
    return p.pte_modify(number("pte", pte), number("newprot", newprot))


def pte_mkwrite(pte, always=False):
    """pte_mkwrite(): sets WRITE, and makes dirty entries writable now; `always`: clean ones too, the rule of 6.16 (spec 2.2)."""
    return p.pte_mkwrite(number("pte", pte), truth("always", always))


def pte_mkdirty(pte):
    """pte_mkdirty(): sets DIRTY; clears RDONLY where WRITE is set (spec 2.2)."""
    return p.pte_mkdirty(number("pte", pte))


def pte_mkclean(pte):
    """pte_mkclean(): clears DIRTY, sets RDONLY (spec 2.2)."""
    return p.pte_mkclean(number("pte", pte))


def pte_wrprotect(pte):
    """pte_wrprotect(): clears WRITE, sets RDONLY; dirtiness moves to DIRTY (spec 2.2)."""
    return p.pte_wrprotect(number("pte", pte))


def pte_mkold(pte):
    """pte_mkold(): clears AF (spec 2.2)."""
    return p.pte_mkold(number("pte", pte))


def pte_mkyoung(pte):
    """pte_mkyoung(): sets AF (spec 2.2)."""
    return p.pte_mkyoung(number("pte", pte))


def pte_mkcont(pte):
    """pte_mkcont(): sets CONT (spec 2.2)."""
    return p.pte_mkcont(number("pte", pte))


def pte_mknoncont(pte):
    """pte_mknoncont(): clears CONT (spec 2.2)."""
    return p.pte_mknoncont(number("pte", pte))


def pte_mkuffd(pte):
    """pte_mkuffd(): sets UFFD and write-protects (spec 2.2)."""
    return p.pte_mkuffd(number("pte", pte))


def pte_clear_uffd(pte):
    """pte_clear_uffd(): clears UFFD; WRITE does not come back (spec 2.2)."""
    return p.pte_clear_uffd(number("pte", pte))


def pte_advance_pfn(pte, nr, page_shift=12):
    """pte_advance_pfn(): the frame nr pages further, flags as they are (spec 1.3)."""
    return p.pte_advance_pfn(number("pte", pte), number("nr", nr), shift_of(page_shift))


def pte_pgprot(pte, page_shift=12):
    """pte_pgprot(): all bits but the address (spec 1.3)."""
    return p.pte_pgprot(number("pte", pte), shift_of(page_shift))


def pte_pfn(pte, page_shift=12):
    """pte_pfn(): the page frame number (spec 1.3)."""
    return p.pte_pfn(number("pte", pte), shift_of(page_shift))


def pte_batch_clear_ignored(pte, flags):
    """Normalisation of folio_pte_batch() (spec 5.2); FPB flags 1 dirty, 2 soft-dirty, 4 write."""
    return p.pte_batch_clear_ignored(number("pte", pte), number("flags", flags, 7))


def pte_needs_flush(old, new, own_rule=True):
    """pte_needs_flush(); without arm64's own rule always true (spec 2.4)."""
    return bool(p.pte_needs_flush(number("old", old), number("new", new), truth("own_rule", own_rule)))


def pte_swp_mkuffd(pte):
    """pte_swp_mkuffd(): userfaultfd bit of a softleaf entry (spec 1.6)."""
    return p.pte_swp_mkuffd(number("pte", pte))


def pte_swp_clear_uffd(pte):
    """pte_swp_clear_uffd(): clears that bit (spec 1.6)."""
    return p.pte_swp_clear_uffd(number("pte", pte))


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
