"""The public PTE verbs: contpte blocks folded and unfolded behind the caller's back.

Restates spec 3.1 to 3.9. Kernel counterparts: arch/arm64/mm/contpte.c and the
public layer of arch/arm64/include/asm/pgtable.h.
"""

from __future__ import annotations

from .. import bits as b
from . import pte as p
from .mmu import Memory
from .tlb import range_ops


class Contpte(Memory):
    """A page table seen through the public verbs."""

    # One entry's view

    def batch_hint(self, addr: int, word: int) -> int:
        """Entries from here to the end of the folded block, 1 outside of one (spec 3.8)."""
        if not self.machine.contpte or not p.pte_valid_cont(word):
            return 1
        return self.machine.cont_ptes - self.pte_index(addr) % self.machine.cont_ptes

    def ptep_get(self, addr: int) -> int:
        """The word, with AF and dirty of its whole block if that is folded (spec 3.6)."""
        before = self.counters["pte_reads"]
        self.count("ptep_get")
        word = self.raw_get(addr)
        if self.machine.contpte and p.pte_valid_cont(word):
            self.count("contpte_ptep_get")
            word = self._gather_early_exit(addr, word) if self.machine.gather_early_exit else self._gather_all(addr, word)
        self.count("ptep_get_reads", self.counters["pte_reads"] - before)
        return word

    def _block(self, addr: int) -> list[int]:
        first = self.block_start(addr)
        return [first + i * self.page_size for i in range(self.machine.cont_ptes)]

    def _gather_all(self, addr: int, word: int) -> int:
        for each in self._block(addr):
            other = self.raw_get(each)
            if p.pte_dirty(other):
                word = p.pte_mkdirty(word)
            if p.pte_young(other):
                word = p.pte_mkyoung(word)
        return word

    def _gather_early_exit(self, addr: int, word: int) -> int:
        block = self._block(addr)
        for i, each in enumerate(block):
            other = self.raw_get(each)
            if p.pte_dirty(other):
                word = p.pte_mkdirty(word)
                # The dirty entry itself is read again for AF: the kernel's inner loop starts at i.
                for again in block[i:]:
                    if p.pte_young(self.raw_get(again)):
                        return p.pte_mkyoung(word)
                return word
            if p.pte_young(other):
                word = p.pte_mkyoung(word)
                for later in block[i + 1 :]:
                    if p.pte_dirty(self.raw_get(later)):
                        return p.pte_mkdirty(word)
                return word
        return word

    # Fold and unfold

    def _convert(self, addr: int, template: int) -> None:
        """Rewrite a whole block from one word: clear, flush, set (spec 3.4)."""
        machine = self.machine
        nr = machine.cont_ptes
        kind = "FOLD" if p.pte_cont(template) else "UNFOLD"
        self.count("folds" if kind == "FOLD" else "unfolds")
        block = self._block(addr)
        self.event(kind, block[0], nr)
        pfn = p.pte_pfn(self.page_shift, template) // nr * nr
        template = p.pfn_pte(self.page_shift, pfn, p.pte_pgprot(self.page_shift, template))
        for each in block:
            old = self.raw_get_and_clear(each)
            if p.pte_dirty(old):
                template = p.pte_mkdirty(template)
            if p.pte_young(old):
                template = p.pte_mkyoung(template)
        if not machine.elides_bbm:
            self.convert_flushes.append((block[0], nr))
            self.count("convert_tlbi")
            self.count("convert_tlbi_pages", nr)
            self.count("convert_tlbi_ops", len(range_ops(machine, block[0], nr, tlb_range=False)))
            self.count("convert_tlbi_ops_range", len(range_ops(machine, block[0], nr, tlb_range=True)))
            self.flush_tlb(block[0], nr, "convert")
        self.raw_set_ptes(block[0], template, nr)

    def _unfold(self, addr: int, word: int) -> None:
        self.count("unfold_calls")
        self._convert(addr, p.pte_mknoncont(word))

    def _unfold_single(self, addr: int) -> None:
        """Before a verb on one entry: a folded block must be taken apart."""
        word = self.raw_get(addr)
        if p.pte_valid_cont(word):
            self.count("unfold_single")
            self._unfold(addr, word)

    def _unfold_partial(self, addr: int, nr: int) -> None:
        """Before a verb on several entries: only blocks that it covers in part (spec 3.5)."""
        cont = self.machine.cont_ptes
        index = self.pte_index(addr)
        last = addr + (nr - 1) * self.page_size
        if index % cont or nr < cont:
            word = self.raw_get(addr)
            if p.pte_valid_cont(word):
                self._unfold(addr, word)
        if (index + nr) % cont:
            word = self.raw_get(last)
            if p.pte_valid_cont(word):
                self._unfold(last, word)

    def _try_fold(self, addr: int, word: int) -> None:
        """After one entry was set: fold its block if this completed a uniform one (spec 3.3)."""
        machine = self.machine
        cont = machine.cont_ptes
        pfn = p.pte_pfn(self.page_shift, word)
        if self.pte_index(addr) % cont != cont - 1 or pfn % cont != cont - 1:
            return
        if not p.pte_valid(word) or p.pte_cont(word) or p.pte_special(word):
            return
        self.count("fold_tries")
        block = self._block(addr)
        folio = self.page_folio(pfn)
        # Where the folio's first page would be mapped; the block must lie inside.
        folio_start = addr - (pfn - folio.head) * self.page_size
        if folio_start > block[0] or folio_start + folio.nr * self.page_size < block[0] + cont * self.page_size:
            return
        flags = p.pte_pgprot(self.page_shift, p.pte_mkold(p.pte_mkclean(word)))
        for i, each in enumerate(block):
            want = p.pfn_pte(self.page_shift, pfn - (cont - 1) + i, flags)
            if p.pte_mkold(p.pte_mkclean(self.raw_get(each))) != want:
                return
        self._convert(addr, p.pte_mkcont(word))

    # Public setters

    def set_ptes(self, addr: int, word: int, nr: int = 1) -> None:
        """set_ptes() and, with nr 1, set_pte_at() (spec 3.2)."""
        self.count("set_ptes")
        if not self.machine.contpte:
            self.raw_set_ptes(addr, word, nr)
            return
        word = p.pte_mknoncont(word)
        if nr == 1:
            self._unfold_single(addr)
            self.raw_set_ptes(addr, word, 1)
            self._try_fold(addr, word)
        else:
            self._contpte_set_ptes(addr, word, nr)

    def _contpte_set_ptes(self, addr: int, word: int, nr: int) -> None:
        """Paint: CONT on the full aligned blocks inside, no neighbour is read (spec 3.7)."""
        self.count("set_ptes_multi")
        machine = self.machine
        if not p.pte_valid(word) and not machine.paint_invalid:
            self.raw_set_ptes(addr, word, nr)
            return
        size = machine.cont_ptes * self.page_size
        end = addr + nr * self.page_size
        while addr != end:
            cut = min(end, (addr // size + 1) * size)
            pieces = (cut - addr) // self.page_size
            aligned = p.pte_pfn(self.page_shift, word) % machine.cont_ptes == 0
            if addr % size == 0 and cut % size == 0 and aligned:
                self._note_paint(addr, word)
                self.raw_set_ptes(addr, p.pte_mkcont(word), pieces)
            else:
                self.raw_set_ptes(addr, word, pieces)
            word = p.pte_advance_pfn(self.page_shift, word, pieces)
            addr = cut

    def _note_paint(self, addr: int, word: int) -> None:
        # The gap of spec 7.8: valid unfolded entries become a folded block and no TLBI came between.
        before = (self.cleared.get(each, 0) for each in self._block(addr))
        if p.pte_valid(word) and any(p.pte_valid(old) and not p.pte_cont(old) for old in before):
            self.count("cont_without_bbm")

    def pte_clear(self, addr: int) -> None:
        """pte_clear(): a store of 0, not an exchange."""
        if self.machine.contpte:
            self._unfold_single(addr)
        self.raw_set(addr, 0)

    def get_and_clear_full_ptes(self, addr: int, nr: int) -> int:
        """Clear nr entries; the first word with AF and dirty of all (spec 2.5, 3.2)."""
        if self.machine.contpte:
            if nr == 1:
                self._unfold_single(addr)
            else:
                self.count("start_multi")
                self._unfold_partial(addr, nr)
        for i in range(nr):
            each = addr + i * self.page_size
            self.cleared[each] = self.ptes[each]
        return self.raw_get_and_clear_full(addr, nr)

    def wrprotect_ptes(self, addr: int, nr: int) -> None:
        """wrprotect_ptes(), what fork does to the parent (spec 3.2)."""
        if self.machine.contpte:
            if nr == 1:
                # CONT alone is asked: callers guarantee that the entry is present.
                word = self.raw_get(addr)
                if p.pte_cont(word):
                    self.count("unfold_single")
                    self._unfold(addr, word)
                # The unfold may have made the entry young or dirty: the exchange then takes a second turn.
                self.raw_wrprotect(addr, p.pte_mknoncont(word))
                return
            self._unfold_partial(addr, nr)
        for i in range(nr):
            each = addr + i * self.page_size
            self.raw_wrprotect(each, self.raw_get(each))

    def ptep_set_access_flags(self, addr: int, entry: int) -> bool:
        """ptep_set_access_flags(): returns whether anything changed (spec 3.9)."""
        if not self.machine.contpte:
            return self.raw_set_access_flags(addr, entry)
        word = self.raw_get(addr)
        if not p.pte_valid_cont(word):
            return self.raw_set_access_flags(addr, entry)
        mask = b.PTE_RDONLY | b.PTE_AF | b.PTE_WRITE | b.PTE_DIRTY
        if all((self.raw_get(each) ^ entry) & mask == 0 for each in self._block(addr)):
            return False
        if p.pte_write(word) == p.pte_write(entry):
            for i, each in enumerate(self._block(addr)):
                flags = p.pte_pgprot(self.page_shift, entry)
                pfn = p.pte_pfn(self.page_shift, word) // self.machine.cont_ptes * self.machine.cont_ptes + i
                self.raw_set_access_flags(each, p.pfn_pte(self.page_shift, pfn, flags))
        else:
            self.count("unfold_single")
            self._unfold(addr, word)
            self.raw_set_access_flags(addr, entry)
        return True

    # A/D

    def ptep_test_and_clear_young(self, addr: int) -> bool:
        """ptep_test_and_clear_young(): of all entries of a folded block, whose A is one (spec 8.8)."""
        word = self.ptes[addr]
        folded = self.machine.contpte and p.pte_valid_cont(word)
        young = False
        for each in self._block(addr) if folded else [addr]:
            old = self.raw_get(each)
            young |= p.pte_young(old)
            self.raw_cmpxchg(each, old, p.pte_mkold(old))
        return young

    def clear_young_dirty_ptes(self, addr: int, nr: int, *, dirty: bool) -> None:
        """clear_young_dirty_ptes(): A, and with `dirty` D, of nr entries, and of all of the blocks at either end."""
        end = addr + nr * self.page_size
        last = end - self.page_size
        if self.machine.contpte and (nr > 1 or p.pte_cont(self.raw_get(addr))):
            if p.pte_cont(self.raw_get(last)):
                end = self.block_start(last) + self.machine.cont_ptes * self.page_size
            if p.pte_cont(self.raw_get(addr)):
                addr = self.block_start(addr)
        for each in range(addr, end, self.page_size):
            word = self.raw_get(each)
            if dirty:
                # both are cleared: a plain store, hardware that sets them meanwhile is not heard
                self.raw_set(each, p.pte_mkclean(p.pte_mkold(word)))
            else:
                self.raw_cmpxchg(each, word, p.pte_mkold(word))
