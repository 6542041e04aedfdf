"""The PTE accessors on Python integers, for tests and for the curious."""

PREDICATES: tuple[str, ...]

def predicates(pte: int) -> dict[str, bool]:
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

def pte_modify(pte: int, newprot: int) -> int:
    """pte_modify(): access and attribute bits from `newprot`, dirtiness kept (spec 2.3)."""

def pte_mkwrite(pte: int, always: bool = False) -> int:
    """pte_mkwrite(): sets WRITE, and makes dirty entries writable now; `always`: clean ones too, the rule of 6.16 (spec 2.2)."""

def pte_mkdirty(pte: int) -> int:
    """pte_mkdirty(): sets DIRTY; clears RDONLY where WRITE is set (spec 2.2)."""

def pte_mkclean(pte: int) -> int:
    """pte_mkclean(): clears DIRTY, sets RDONLY (spec 2.2)."""

def pte_wrprotect(pte: int) -> int:
    """pte_wrprotect(): clears WRITE, sets RDONLY; dirtiness moves to DIRTY (spec 2.2)."""

def pte_mkold(pte: int) -> int:
    """pte_mkold(): clears AF (spec 2.2)."""

def pte_mkyoung(pte: int) -> int:
    """pte_mkyoung(): sets AF (spec 2.2)."""

def pte_mkcont(pte: int) -> int:
    """pte_mkcont(): sets CONT (spec 2.2)."""

def pte_mknoncont(pte: int) -> int:
    """pte_mknoncont(): clears CONT (spec 2.2)."""

def pte_mkuffd(pte: int) -> int:
    """pte_mkuffd(): sets UFFD and write-protects (spec 2.2)."""

def pte_clear_uffd(pte: int) -> int:
    """pte_clear_uffd(): clears UFFD; WRITE does not come back (spec 2.2)."""

def pte_advance_pfn(pte: int, nr: int, page_shift: int = 12) -> int:
    """pte_advance_pfn(): the frame nr pages further, flags as they are (spec 1.3)."""

def pte_pgprot(pte: int, page_shift: int = 12) -> int:
    """pte_pgprot(): all bits but the address (spec 1.3)."""

def pte_pfn(pte: int, page_shift: int = 12) -> int:
    """pte_pfn(): the page frame number (spec 1.3)."""

def pte_batch_clear_ignored(pte: int, flags: int) -> int:
    """Normalisation of folio_pte_batch() (spec 5.2); FPB flags 1 dirty, 2 soft-dirty, 4 write."""

def pte_needs_flush(old: int, new: int, own_rule: bool = True) -> bool:
    """pte_needs_flush(); without arm64's own rule always true (spec 2.4)."""

def pte_swp_mkuffd(pte: int) -> int:
    """pte_swp_mkuffd(): userfaultfd bit of a softleaf entry (spec 1.6)."""

def pte_swp_clear_uffd(pte: int) -> int:
    """pte_swp_clear_uffd(): clears that bit (spec 1.6)."""

def constants() -> dict[str, int]:
    """The bits as the core has them.

    Returns
    -------
    dict of str to int
    """
